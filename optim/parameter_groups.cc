#include "optim/parameter_groups.h"

#include "absl/strings/match.h"

namespace plait {

bool HasWeightDecay(const std::string& name) {
  for (const char* suffix : {".A_log", ".D", ".bias", "layernorm.weight", ".norm.weight"}) {
    if (absl::EndsWith(name, suffix)) return false;
  }
  return true;
}

}  // namespace plait
