// Counter-based random numbers: Philox4x32-10. The key is (seed, purpose); the counter is (step,
// 32-bit hash of the logical name, 64-bit element index). A value depends on nothing else, so it is
// the same on any number of ranks, in any order, before and after a resume. Source: Salmon et al.,
// "Parallel Random Numbers: As Easy as 1, 2, 3", 2011.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

namespace plait {

enum class RandomPurpose : uint32_t {
  kInitialization = 1,
  kSampleOrder = 2,
  kGeneration = 3,
  kTest = 4
};

class RandomKey {
 public:
  RandomKey(uint64_t seed, RandomPurpose purpose, std::string_view name = "", uint32_t step = 0);

  // Four independent 32-bit words for one element.
  std::array<uint32_t, 4> Words(uint64_t element) const;
  // Uniform in [0, 1), 53 bits.
  double Uniform(uint64_t element) const;
  // Standard normal by Box and Muller's transform.
  double Normal(uint64_t element) const;

 private:
  std::array<uint32_t, 2> key_;
  uint32_t step_;
  uint32_t name_hash_;
};

}  // namespace plait
