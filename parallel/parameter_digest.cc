#include "parallel/parameter_digest.h"

#include <algorithm>
#include <array>
#include <vector>

#include "base/check.h"
#include "base/digest.h"
#include "base/status_macros.h"
#include "parallel/host_collectives.h"
#include "parallel/unit_layout.h"

namespace plait {

absl::StatusOr<std::string> ParameterDigest(Execution& execution, const DeviceMesh& mesh,
                                            std::span<const ShardedParameter> parameters) {
  std::vector<uint64_t> sums(2 * parameters.size(), 0);
  for (size_t p = 0; p < parameters.size(); ++p) {
    const ShardedParameter& parameter = parameters[p];
    if (parameter.replica != 0) continue;
    PLAIT_ASSIGN_OR_RETURN(const Tensor master, execution.ToHost(parameter.master));
    const int64_t begin = parameter.spec.elements.begin;
    PLAIT_CHECK(begin % kTileElements == 0 || parameter.master.num_elements() == 0);
    const uint64_t name = Digest128(parameter.name.data(), parameter.name.size(), /*seed=*/0)[0];
    const int64_t elements = parameter.master.num_elements();
    const size_t width = SizeOf(parameter.master.dtype());
    const bool whole = parameter.spec.has_whole_box();
    for (int64_t i = 0; i < elements; i += kTileElements) {
      const int64_t place = whole ? begin + i : parameter.spec.LogicalElement(begin + i);
      const int64_t tile = place / kTileElements;
      const auto size = static_cast<size_t>(std::min(kTileElements, elements - i));
      const std::array<uint64_t, 2> hash =
          Digest128(static_cast<const char*>(master.raw()) + static_cast<size_t>(i) * width,
                    size * width, name + static_cast<uint64_t>(tile));
      sums[2 * p] += hash[0];
      sums[2 * p + 1] += hash[1];
    }
  }
  PLAIT_RETURN_IF_ERROR(
      AllReduceOnHost(mesh.world(), {sums.data(), DType::kI64, static_cast<int64_t>(sums.size())},
                      ReduceOperation::kSum));
  DigestStream digest;
  for (size_t p = 0; p < parameters.size(); ++p) {
    digest.Add(parameters[p].name.data(), parameters[p].name.size() + 1);
    digest.Add(&sums[2 * p], 2 * sizeof(uint64_t));
  }
  return digest.Hex();
}

}  // namespace plait
