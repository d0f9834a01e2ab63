#include "kernels/processor.h"

#include <hwy/targets.h>

#include <fstream>
#include <sstream>

namespace plait {

ProcessorFeatures FeaturesOfProcessor() {
  ProcessorFeatures features;
  // The best target is the lowest bit of those that were built and that the processor has.
  const auto usable = hwy::SupportedTargets() & HWY_TARGETS;
  features.simd_target = hwy::TargetName(usable & -usable);
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (line.rfind("flags", 0) != 0) continue;
    std::istringstream words(line);
    for (std::string word; words >> word;) {
      features.bf16_dot = features.bf16_dot || word == "avx512_bf16";
      features.amx = features.amx || word == "amx_bf16";
    }
    break;  // the cores of a host are alike
  }
  return features;
}

}  // namespace plait
