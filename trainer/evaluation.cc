#include "trainer/evaluation.h"

#include <algorithm>
#include <numbers>
#include <tuple>
#include <vector>

#include "base/status_macros.h"
#include "data/prepared_manifest.h"
#include "trainer/leaf_sums.h"

namespace plait {
namespace {

double At(const Tensor& tensor, int64_t i) {
  return tensor.dtype() == DType::kF64 ? tensor.data<double>()[i]
                                       : static_cast<double>(tensor.data<float>()[i]);
}

}  // namespace

absl::StatusOr<std::unique_ptr<Evaluation>> Evaluation::Create(const EvaluationOptions& options) {
  PLAIT_ASSIGN_OR_RETURN(const PreparedManifest manifest, ReadManifest(options.folder));
  if (manifest.heldout.empty()) return nullptr;
  PLAIT_ASSIGN_OR_RETURN(
      HeldoutReader reader,
      HeldoutReader::Open(options.folder, options.row_tokens, options.max_tokens));
  return std::unique_ptr<Evaluation>(new Evaluation(std::move(reader), options.rows_per_batch));
}

absl::StatusOr<Evaluation::BatchSums> Evaluation::RunBatch(Execution& execution,
                                                           ModelRuntime& runtime,
                                                           int64_t index) const {
  const int64_t row = index * rows_per_batch_;
  PLAIT_ASSIGN_OR_RETURN(const HeldoutBatch heldout,
                         reader_.Read(row, std::min(rows_per_batch_, reader_.num_rows() - row)));
  const Batch& batch = heldout.batch;
  PLAIT_ASSIGN_OR_RETURN(
      const Microbatch microbatch,
      Microbatch::Create(batch.tokens, batch.targets, batch.token_weight, batch.document_offsets,
                         runtime.model->dtype(), TokenPart::Of(*runtime.mesh)));
  PLAIT_ASSIGN_OR_RETURN(const Tensor log_probability,
                         runtime.model->LogProbabilities(execution, *runtime.sharder, microbatch));
  double negative_log_likelihood = 0;
  // Tensor ranks know the same log-probabilities: the first of them counts.
  const bool counts_segment = runtime.mesh->coordinate(MeshAxis::kTensor) == 0;
  for (int64_t t = 0; counts_segment && t < microbatch.layout.tokens; ++t) {
    const double weight = At(microbatch.token_weight, t);
    if (weight != 0) negative_log_likelihood -= weight * At(log_probability, t);
  }
  if (!runtime.mesh->is_first_of_microbatch()) return BatchSums{negative_log_likelihood, 0, 0, 0};
  return BatchSums{negative_log_likelihood, batch.weight_sum,
                   static_cast<double>(batch.real_tokens), static_cast<double>(heldout.text_bytes)};
}

absl::StatusOr<EvaluationResult> Evaluation::Run(Execution& execution,
                                                 ModelRuntime& runtime) const {
  // Batch i is that of data-parallel rank i mod R, in round i / R. All take part in every round, as
  // the gathering of weights may need them; those past the end do the last batch for nothing.
  Communicator& ranks = runtime.mesh->data_parallel();
  const int64_t batches = (reader_.num_rows() + rows_per_batch_ - 1) / rows_per_batch_;
  const int64_t rounds = (batches + ranks.size() - 1) / ranks.size();
  constexpr int64_t kColumns = std::tuple_size_v<BatchSums>;
  Tensor own = Tensor::OnHost(DType::kF64, {rounds, kColumns});
  for (int64_t round = 0; round < rounds; ++round) {
    const int64_t index = round * ranks.size() + ranks.rank();
    PLAIT_ASSIGN_OR_RETURN(const BatchSums sums,
                           RunBatch(execution, runtime, std::min(index, batches - 1)));
    if (index < batches) std::copy(sums.begin(), sums.end(), own.data<double>() + round * kColumns);
  }
  PLAIT_ASSIGN_OR_RETURN(const std::vector<double> sums,
                         SumOverLeaves(execution, *runtime.mesh, own));
  EvaluationResult result{.weight_sum = sums[1],
                          .tokens = static_cast<int64_t>(sums[2]),
                          .text_bytes = static_cast<int64_t>(sums[3])};
  if (result.weight_sum > 0) result.loss = sums[0] / result.weight_sum;
  if (result.text_bytes > 0) {
    result.bits_per_byte = sums[0] / std::numbers::ln2 / static_cast<double>(result.text_bytes);
  }
  return result;
}

}  // namespace plait
