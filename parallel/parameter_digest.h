// A digest of all parameters that does not depend on the data-parallel layout: every tile of every
// logical tensor is hashed (XXH3-128, seeded by the tensor's name and the tile's place), and the
// hashes are added modulo 2^64, tensor by tensor, over all ranks; the digest is that of the sums
// and names. Of a tensor that the tensor or expert axis cuts, tiles are those of each box, placed
// by their first element.
#pragma once

#include <span>
#include <string>

#include "absl/status/statusor.h"
#include "base/execution.h"
#include "parallel/device_mesh.h"
#include "parallel/parameter.h"

namespace plait {

// Collective; of the masters. 32 hexadecimal digits, the same on every rank.
absl::StatusOr<std::string> ParameterDigest(Execution& execution, const DeviceMesh& mesh,
                                            std::span<const ShardedParameter> parameters);

}  // namespace plait
