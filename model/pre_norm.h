// What every block shares: the norm before it, and the gradients around its residual.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "model/block.h"
#include "model/rms_norm.h"

namespace plait {

class PreNorm {
 public:
  struct Saved {
    Tensor inverse_rms;  // [tokens]
  };

  PreNorm(const std::string& name, int64_t dim, double epsilon, DType dtype)
      : norm_(name, dim, epsilon, dtype) {}

  // Moves the stream on to (residual + delta, nothing) and returns the normalised input of the
  // mixer.
  absl::StatusOr<Tensor> Forward(Execution& execution, const BlockForwardContext& context,
                                 ResidualStream& stream, Saved* saved) const {
    return norm_.Forward(execution, stream, context.delta_statistics,
                         saved != nullptr ? &saved->inverse_rms : nullptr);
  }

  // The normalised input once more, from the residual sum: cheaper than keeping it.
  absl::StatusOr<Tensor> Recompute(Execution& execution, const Tensor& residual_sum) const {
    ResidualStream stream{.residual = residual_sum, .delta = {}};
    return norm_.Forward(execution, stream, nullptr, nullptr);
  }

  // Gradient of the mixer's output from that of the stream: the activation loss adds 2 x factor x
  // output on real tokens.
  absl::StatusOr<Tensor> OutputGradient(Execution& execution, const BlockBackwardContext& context,
                                        const Tensor& gradient, const Tensor& output) const;

  // Gradient of the stream before the block: `gradient` past the block, `dy` through the norm, and
  // the activation loss on the residual stream. dy: [tokens, model_dim] in the accumulation dtype
  // or the compute dtype.
  absl::StatusOr<Tensor> Backward(Execution& execution, const BlockBackwardContext& context,
                                  const Tensor& gradient, const Tensor& dy,
                                  const Tensor& residual_sum, const Saved& saved);

  void AppendParameters(std::vector<LayerParameter*>& parameters) {
    norm_.AppendParameters(parameters);
  }

 private:
  RmsNorm norm_;
};

// x rounded to `dtype`; x itself if it has that dtype.
absl::StatusOr<Tensor> Rounded(Execution& execution, const Tensor& x, DType dtype);

}  // namespace plait
