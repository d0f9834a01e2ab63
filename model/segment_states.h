// How a Mamba block goes on from one segment of a microbatch to the next, along the context axis:
// the convolution's inputs and the scan's state before a document that began in an earlier segment,
// and the gradients of those that come back from later ones. No rank waits for another one's pass:
// all ranks gather each other's last inputs, or a summary of their part of the document
// (selective_scan_summary_args.h), and each works out its own state from those, in rank order.
// Gathered per block and direction: contexts x (conv_width - 1 + state_dim + 1) x channels.
#pragma once

#include <cstdint>

#include "absl/status/statusor.h"
#include "base/execution.h"
#include "base/tensor.h"
#include "kernels/causal_convolution_args.h"
#include "kernels/selective_scan_args.h"
#include "model/sequence_layout.h"
#include "parallel/device_mesh.h"

namespace plait {

// Every function is collective over the context axis, and returns an absent tensor where the
// kernels' default (zeros) is right: nothing is gathered where no document of the microbatch
// crosses an edge of segments. States are of all documents of the segment, as the kernels take
// them, though only the first one's (backwards, the last one's) can be other than zero.
class SegmentStates {
 public:
  explicit SegmentStates(const DeviceMesh& mesh) : ranks_(&mesh.axis(MeshAxis::kContext)) {}

  // Inputs before each document. x: [tokens, channels]; width: of the convolution. Returns
  // [documents x (width - 1), channels], dtype of x.
  absl::StatusOr<Tensor> InputsBefore(Execution& execution, const SequenceLayout& layout,
                                      const ConstMatrixView& x, int64_t width) const;
  // The gradient that later segments have for each document's last inputs. convolution: of this
  // segment, with its initial_state; outputs are not touched. Returns [documents x (width - 1),
  // channels], f32 or f64.
  absl::StatusOr<Tensor> InputGradientsAfter(
      Execution& execution, const SequenceLayout& layout,
      const CausalConvolutionBackwardArgs& convolution) const;

  // The scan's state before each document. Returns [documents x states, channels], f32 or f64.
  absl::StatusOr<Tensor> StatesBefore(Execution& execution, const SequenceLayout& layout,
                                      const SelectiveScanInputs& scan) const;
  // The gradient that later segments have for the state after each document. dy: [tokens,
  // channels]. Returns [documents x states, channels], f32 or f64.
  absl::StatusOr<Tensor> StateGradientsAfter(Execution& execution, const SequenceLayout& layout,
                                             const SelectiveScanInputs& scan,
                                             const ConstMatrixView& dy) const;

 private:
  bool AnyDocumentCrosses(const SequenceLayout& layout) const;
  absl::StatusOr<Tensor> Gather(Execution& execution, const Tensor& own) const;
  // state past the summary of rank `rank`. gathered: [contexts x (states + 1), channels], per rank
  // the local state, then the sum of delta.
  absl::Status Carry(Execution& execution, const SelectiveScanInputs& scan, const Tensor& gathered,
                     int64_t rank, Tensor& state) const;

  Communicator* ranks_;
};

}  // namespace plait
