// The emulated device's library: the reference's loops on its memory.
#include "kernels/cuda/library_product.h"

#include "base/check.h"
#include "kernels/cuda/emulation/device_memory.h"
#include "kernels/reference/matmul.h"

namespace plait::cuda {

absl::Status LibraryProduct(Execution& execution, const MatmulArgs& args) {
  const int64_t k = args.transpose_a == Transpose::kYes ? args.a.rows : args.a.columns;
  PLAIT_CHECK(args.a.dtype == args.b.dtype && HasLibraryProduct(args.a.dtype, args.c.dtype) &&
              !args.bias && args.c.rows > 0 && args.c.columns > 0 && k > 0);
  const emulation::DeviceMemoryAccess access;
  return reference::Matmul(execution, args);
}

}  // namespace plait::cuda
