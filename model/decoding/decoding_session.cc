#include "model/decoding/decoding_session.h"

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace plait {

DecodingSession::DecodingSession(Execution& execution, LanguageModel& model,
                                 ParameterSharder& sharder, int64_t capacity)
    : execution_(execution), model_(model), sharder_(sharder), capacity_(capacity) {
  const ModelShape& shape = model.shape();
  const DType dtype = model.dtype();
  for (const LayerKind& layer : shape.layers) {
    BlockCache cache;
    if (layer.mixer == MixerKind::kAttention) {
      cache.keys = execution.Zeros(dtype, {capacity, shape.kv_heads * shape.head_dim});
      cache.values = execution.Zeros(dtype, {capacity, shape.kv_heads * shape.head_dim});
    } else {
      cache.convolution = execution.Zeros(dtype, {shape.conv_width - 1, shape.channels});
      cache.scan = execution.Zeros(StatisticsDType(dtype), {shape.state_dim, shape.channels});
    }
    caches_.push_back(std::move(cache));
    caches_.push_back({});  // a feed-forward has no state
  }
}

absl::StatusOr<Tensor> DecodingSession::Append(std::span<const int32_t> tokens) {
  if (tokens.empty()) return absl::InvalidArgumentError("no tokens to continue from");
  const auto added = static_cast<int64_t>(tokens.size());
  if (length_ + added > capacity_) {
    return absl::OutOfRangeError(absl::StrCat("sequence of ", length_ + added,
                                              " tokens is longer than the session's ", capacity_));
  }
  const Tensor ids = Tensor::FromValues<int32_t>({added}, {tokens.begin(), tokens.end()});
  const SequenceLayout layout =
      SequenceLayout::Continuation(added, length_, StatisticsDType(model_.dtype()));
  PLAIT_ASSIGN_OR_RETURN(const Tensor hidden, model_.Forward(execution_, sharder_, ids, layout,
                                                             &caches_, /*saved=*/nullptr));
  length_ += added;
  PLAIT_ASSIGN_OR_RETURN(const Tensor logits,
                         model_.head().Logits(execution_, hidden.Slice(added - 1, added)));
  return logits.Reshape({model_.shape().vocabulary});
}

}  // namespace plait
