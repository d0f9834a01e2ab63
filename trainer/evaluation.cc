#include "trainer/evaluation.h"

#include <algorithm>
#include <numbers>
#include <vector>

#include "base/status_macros.h"
#include "data/prepared_manifest.h"
#include "trainer/leaf_sums.h"
#include "trainer/microbatch_flow.h"

namespace plait {
namespace {

// Rounds between two questions whether to go on, times the pipeline's stages, for each time the
// pipeline runs empty: 6 % of the evaluation at most.
constexpr int64_t kRoundsPerQuestion = 16;

}  // namespace

absl::StatusOr<std::unique_ptr<Evaluation>> Evaluation::Create(const EvaluationOptions& options) {
  PLAIT_ASSIGN_OR_RETURN(const PreparedManifest manifest, ReadManifest(options.folder));
  if (manifest.heldout.empty()) return nullptr;
  PLAIT_ASSIGN_OR_RETURN(
      HeldoutReader reader,
      HeldoutReader::Open(options.folder, options.row_tokens, options.max_tokens));
  return std::unique_ptr<Evaluation>(new Evaluation(std::move(reader), options));
}

absl::StatusOr<EvaluationResult> Evaluation::Run(Execution& execution, ModelRuntime& runtime,
                                                 const GoOn& go_on) const {
  // Batch i is that of data-parallel rank i mod R, in round i / R. All take part in every round, as
  // the gathering of weights may need them; those past the end do the last batch for nothing.
  const DeviceMesh& mesh = *runtime.mesh;
  const int64_t ranks = mesh.data_parallel_size();
  const int64_t token_parts = mesh.size(MeshAxis::kContext) * mesh.size(MeshAxis::kTensor);
  const int64_t batches = (reader_.num_rows() + rows_per_batch_ - 1) / rows_per_batch_;
  const int64_t rounds = (batches + ranks - 1) / ranks;
  // Of each round: negative log likelihood, weight, tokens, bytes of text.
  constexpr int64_t kColumns = 4;
  Tensor own = Tensor::OnHost(DType::kF64, {rounds, kColumns});
  const auto index_of = [&](int64_t round) { return round * ranks + mesh.data_parallel_rank(); };
  int64_t first = 0;  // round of the flow's microbatch 0
  MicrobatchFlow flow(execution, runtime, [&](int64_t microbatch) -> absl::StatusOr<Microbatch> {
    const int64_t round = first + microbatch;
    const int64_t index = index_of(round);
    const int64_t row = std::min(index, batches - 1) * rows_per_batch_;
    // The last batch has rows of padding where its own do not divide among the ranks.
    int64_t rows = std::min(rows_per_batch_, reader_.num_rows() - row);
    while (rows < rows_per_batch_ && rows * row_tokens_ % token_parts != 0) ++rows;
    PLAIT_ASSIGN_OR_RETURN(const HeldoutBatch heldout, reader_.Read(row, rows));
    const Batch& batch = heldout.batch;
    if (index < batches && mesh.is_first_of_microbatch()) {
      double* sums = own.data<double>() + round * kColumns;
      sums[1] = batch.weight_sum;
      sums[2] = static_cast<double>(batch.real_tokens);
      sums[3] = static_cast<double>(heldout.text_bytes);
    }
    return Microbatch::Create(batch.tokens, batch.targets, batch.token_weight,
                              batch.document_offsets, runtime.model->dtype(), TokenPart::Of(mesh));
  });
  const int64_t rounds_per_question = kRoundsPerQuestion * mesh.size(MeshAxis::kPipeline);
  bool goes_on = true;
  while (goes_on && first < rounds) {
    const int64_t microbatches = std::min(rounds_per_question, rounds - first);
    for (const PipelineAction& action : EvaluationActions(runtime, microbatches)) {
      if (action.kind != PipelineActionKind::kForward) {
        PLAIT_RETURN_IF_ERROR(flow.Exchange(action));
        continue;
      }
      PLAIT_ASSIGN_OR_RETURN(const Tensor log_probability, flow.Evaluate(action));
      const int64_t round = first + action.microbatch;
      if (log_probability && index_of(round) < batches) {
        PLAIT_ASSIGN_OR_RETURN(const Microbatch* microbatch, flow.microbatch(action.microbatch));
        own.data<double>()[round * kColumns] =
            WeightedNegativeLogLikelihood(mesh, *microbatch, log_probability);
      }
      if (action.chunk + 1 == runtime.model->num_chunks()) flow.Drop(action.microbatch);
    }
    first += microbatches;
    if (first < rounds) {
      PLAIT_ASSIGN_OR_RETURN(goes_on,
                             go_on(static_cast<double>(first) / static_cast<double>(rounds)));
    }
  }
  PLAIT_ASSIGN_OR_RETURN(const std::vector<double> sums, SumOverLeaves(*runtime.mesh, own));
  EvaluationResult result{.weight_sum = sums[1],
                          .tokens = static_cast<int64_t>(sums[2]),
                          .text_bytes = static_cast<int64_t>(sums[3]),
                          .is_whole = first == rounds};
  if (result.weight_sum > 0) result.loss = sums[0] / result.weight_sum;
  if (result.text_bytes > 0) {
    result.bits_per_byte = sums[0] / std::numbers::ln2 / static_cast<double>(result.text_bytes);
  }
  return result;
}

}  // namespace plait
