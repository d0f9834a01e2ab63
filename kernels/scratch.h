// KernelScratch: memory that kernels take from the allocator while they run, as lists of blocks in
// bytes that are held together, for plans of a step's memory. A kernel that is not here takes none.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "base/device.h"
#include "base/dtype.h"

namespace plait {

// c [m, n] = a b, of a [m, k] and b [k, n].
struct MatmulScratchShape {
  DType a = DType::kF32, b = DType::kF32, c = DType::kF32;
  int64_t m = 0, n = 0, k = 0;
  bool has_bias = false;
};

// Products with a group's weights [columns, inner] or their gradient, `rows` rows in all groups
// together.
struct GroupedScratchShape {
  DType operands = DType::kF32, c = DType::kF32;
  int64_t groups = 0, rows = 0, columns = 0, inner = 0;
  bool is_gathered = false;  // the rows with `inner` columns come by index
};

struct AttentionScratchShape {
  DType dtype = DType::kF32;
  DType result = DType::kF32;  // of what the call writes
  int64_t heads = 0, kv_heads = 0, head_dim = 0;
  int64_t documents = 0, document_tokens = 0;  // of equal length
  int64_t queries = 0;                         // of this rank, in all
};

struct ScanScratchShape {
  DType dtype = DType::kF32;
  int64_t tokens = 0, channels = 0, states = 0;
};

// Libraries that a device's kernels go to where they accept (cuBLASLt, cuDNN, CUTLASS).
enum class DeviceLibraries { kPresent, kEmulated };

// Whose kernels run.
struct KernelSet {
  DeviceKind device = DeviceKind::kCpu;
  int threads = 1;                                        // of the CPU's kernels
  DeviceLibraries libraries = DeviceLibraries::kPresent;  // of the device's
};

class KernelScratch {
 public:
  using Blocks = std::vector<int64_t>;

  virtual ~KernelScratch() = default;

  // From the first call on, whatever is called.
  virtual Blocks Kept() const { return {}; }

  virtual Blocks Matmul(const MatmulScratchShape& shape) const = 0;
  virtual Blocks GroupedMatmul(const GroupedScratchShape& shape) const = 0;
  virtual Blocks GroupedWeightGradient(const GroupedScratchShape& shape) const = 0;
  virtual Blocks AttentionForward(const AttentionScratchShape& shape) const = 0;
  virtual Blocks AttentionBackward(const AttentionScratchShape& shape) const = 0;
  virtual Blocks SelectiveScanForward(const ScanScratchShape& shape) const = 0;
  virtual Blocks SelectiveScanBackward(const ScanScratchShape& shape) const = 0;
  virtual Blocks CausalConvolutionBackward(DType dtype, int64_t tokens, int64_t channels,
                                           int64_t width) const = 0;
  virtual Blocks RmsNormBackward(DType dtype, int64_t tokens, int64_t dim) const = 0;
  virtual Blocks ColumnSum(DType dtype, int64_t rows, int64_t columns) const = 0;
  virtual Blocks EmbeddingBackward(int64_t tokens, int64_t vocabulary) const = 0;
  virtual Blocks ExpertPermutation(int64_t pairs, int64_t experts) const = 0;
};

std::unique_ptr<const KernelScratch> MakeKernelScratch(const KernelSet& kernels);

}  // namespace plait
