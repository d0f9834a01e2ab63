#include "parallel/parameter.h"

namespace plait {

void Cut(Parameter& parameter, int dim, int64_t segments, int64_t part, int64_t parts) {
  parameter.group = MeshGroup::kData;
  if (parts == 1) return;
  parameter.box = ShardSpec::Part(parameter.shape, dim, segments, part, parts);
  parameter.shape = parameter.box->box_shape();
}

}  // namespace plait
