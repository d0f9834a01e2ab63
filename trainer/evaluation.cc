#include "trainer/evaluation.h"

#include <algorithm>
#include <numbers>

#include "base/status_macros.h"
#include "data/prepared_manifest.h"

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

absl::StatusOr<EvaluationResult> Evaluation::Run(Execution& execution,
                                                 ModelRuntime& runtime) const {
  EvaluationResult result;
  double negative_log_likelihood = 0;
  for (int64_t row = 0; row < reader_.num_rows(); row += rows_per_batch_) {
    const int64_t rows = std::min(rows_per_batch_, reader_.num_rows() - row);
    PLAIT_ASSIGN_OR_RETURN(const HeldoutBatch heldout, reader_.Read(row, rows));
    const Batch& batch = heldout.batch;
    PLAIT_ASSIGN_OR_RETURN(const Microbatch microbatch,
                           Microbatch::Create(batch.tokens, batch.targets, batch.token_weight,
                                              batch.document_offsets, runtime.model->dtype()));
    PLAIT_ASSIGN_OR_RETURN(
        const Tensor log_probability,
        runtime.model->LogProbabilities(execution, *runtime.sharder, microbatch));
    for (int64_t t = 0; t < batch.token_weight.num_elements(); ++t) {
      const double weight = At(batch.token_weight, t);
      if (weight != 0) negative_log_likelihood -= weight * At(log_probability, t);
    }
    result.weight_sum += batch.weight_sum;
    result.tokens += batch.real_tokens;
    result.text_bytes += heldout.text_bytes;
  }
  if (result.weight_sum > 0) result.loss = negative_log_likelihood / result.weight_sum;
  if (result.text_bytes > 0) {
    result.bits_per_byte =
        negative_log_likelihood / std::numbers::ln2 / static_cast<double>(result.text_bytes);
  }
  return result;
}

}  // namespace plait
