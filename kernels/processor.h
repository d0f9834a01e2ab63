// What the kernels make of this processor.
#pragma once

#include <string>

namespace plait {

struct ProcessorFeatures {
  std::string simd_target;  // of Highway, chosen for the kernels: "AVX2", "AVX3_ZEN4"
  bool bf16_dot = false;    // AVX512_BF16: products of bf16 without widening
  bool amx = false;         // AMX with bf16
};

ProcessorFeatures FeaturesOfProcessor();

}  // namespace plait
