// How many inputs a fuzz test makes and what they may cost: a second of processor time each, and
// 512 MiB for the whole process, sanitizers included. PLAIT_FUZZ_INPUTS sets the number; without it
// a test has its own, which suits the fast set.
#pragma once

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <algorithm>
#include <cinttypes>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <ctime>

// Called by AddressSanitizer where it is linked: freed memory that it holds back, 256 MiB
// otherwise, counts as the process's. ASAN_OPTIONS goes before it.
extern "C" __attribute__((used)) inline const char* __asan_default_options() {
  return "quarantine_size_mb=64";
}

namespace plait {

class FuzzedInputs {
 public:
  explicit FuzzedInputs(int64_t count) : count_(count) {
    const char* const asked = std::getenv("PLAIT_FUZZ_INPUTS");
    if (asked != nullptr) count_ = std::strtoll(asked, nullptr, 10);
  }

  int64_t count() const { return count_; }

  // Runs `read` on input `index`.
  template <typename Read>
  void Time(int64_t index, const Read& read) {
    const double begun = ThreadSeconds();
    read();
    const double took = ThreadSeconds() - begun;
    EXPECT_LT(took, 1) << "seconds for input " << index;
    slowest_seconds_ = std::max(slowest_seconds_, took);
    seconds_ += took;
  }

  // Prints the sums and checks the memory.
  void Finish() const {
    rusage usage;
    ASSERT_EQ(getrusage(RUSAGE_SELF, &usage), 0);
    std::printf("%" PRId64 " inputs: %.1f s, the slowest %.4f s, at most %ld MiB\n", count_,
                seconds_, slowest_seconds_, usage.ru_maxrss >> 10);
    EXPECT_LT(usage.ru_maxrss, 512 << 10);  // KiB
  }

 private:
  static double ThreadSeconds() {
    timespec time;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
  }

  int64_t count_;
  double seconds_ = 0;
  double slowest_seconds_ = 0;
};

}  // namespace plait
