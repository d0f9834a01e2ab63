// Mamba-1 block with Jamba's three inner norms: x + out_proj(scan(...)), y = rms(x).
//   [x | z] = in_proj(y);  u = silu(conv(x));  [dt_low | B | C] = x_proj(u), each normalised by its
//   own RMSNorm dt = dt_proj(dt_low);  s = selective_scan(u, dt, B, C, z; A_log, D);  output =
//   out_proj(s)
// The tensor axis cuts the channels; x_proj then gives every rank a part of a sum, and what follows
// from that sum is computed alike on all of them. The context axis cuts the tokens; a document that
// crosses into the next segment goes on there from the states it had (segment_states.h).
// Source: Gu and Dao, "Mamba", 2023; Lieber et al., "Jamba", 2024.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "kernels/selective_scan_args.h"
#include "model/block.h"
#include "model/linear.h"
#include "model/model_shape.h"
#include "model/pre_norm.h"
#include "model/segment_states.h"
#include "model/tensor_parallel.h"

namespace plait {

class MambaBlock : public Block {
 public:
  MambaBlock(const ModelShape& shape, const std::string& layer_name, DType dtype,
             const DeviceMesh& mesh);

  const std::string& name() const override { return name_; }
  std::vector<LayerParameter*> parameters() override;
  const Routing* routing(const Saved&) const override { return nullptr; }
  absl::Status Forward(Execution& execution, const BlockForwardContext& context,
                       ResidualStream& stream, std::unique_ptr<Saved>* saved) override;
  absl::StatusOr<Tensor> Backward(Execution& execution, const BlockBackwardContext& context,
                                  const Tensor& gradient, const Saved& saved) override;

 private:
  struct MambaSaved : Saved {
    PreNorm::Saved norm;
    Tensor xz;           // [tokens, 2 x channels]
    Tensor u;            // [tokens, channels]
    Tensor selection;    // x_proj(u): [tokens, dt_rank + 2 x state_dim]
    Tensor inverse_rms;  // [3, tokens]: of dt_low, B and C
    Tensor checkpoints;  // of the scan
    // What the documents' states were before this segment; absent: zero.
    Tensor inputs_before;  // of the convolution, [documents x (conv_width - 1), channels]
    Tensor states_before;  // of the scan, [documents x state_dim, channels]
    Tensor scanned;        // [tokens, channels]
  };
  // The three column ranges of x_proj's output.
  struct Part {
    RmsNorm* norm;
    int64_t begin;
    int64_t columns;
  };

  std::vector<Part> Parts();
  // The normalised selection. inverse_rms: [3, tokens], or nullptr.
  absl::StatusOr<Tensor> NormalizedSelection(Execution& execution, const Tensor& selection,
                                             Tensor* inverse_rms);
  SelectiveScanInputs ScanInputs(const SequenceLayout& layout, const Tensor& u, const Tensor& dt,
                                 const Tensor& xz, const Tensor& normalized) const;
  ConstVectorView conv_bias() const;

  std::string name_;
  bool keep_output_;
  TensorParallel tensor_;
  SegmentStates segments_;
  int64_t channels_;  // of this rank
  int64_t state_dim_, dt_rank_, conv_width_;
  PreNorm norm_;
  Linear in_, x_, dt_, out_;
  LayerParameter conv_weight_, conv_bias_, a_log_, d_, dt_bias_;
  RmsNorm dt_norm_, b_norm_, c_norm_;
};

}  // namespace plait
