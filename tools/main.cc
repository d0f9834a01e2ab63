#include <unistd.h>

#include <cstdlib>

#include "tools/plait.h"

namespace {

// OpenMP's threads spin for long while they wait, which starves every other program on the core,
// and this one's own threads where cores are shared: a step was seen to take ten times as long.
// Giving the core away at once costs a quarter of a small model's step. So they spin for some
// microseconds (docs/benchmarks.md, Waiting threads). The OpenMP library reads its settings before
// main, so the program starts itself once more; settings of the user's own stand.
void WaitWithoutMuchSpinning(char** argv) {
  if (std::getenv("OMP_WAIT_POLICY") != nullptr) return;
  setenv("OMP_WAIT_POLICY", "passive", /*overwrite=*/1);
  setenv("GOMP_SPINCOUNT", "2000", /*overwrite=*/0);
  execv("/proc/self/exe", argv);
  // Where it cannot be started again it runs as it is.
}

}  // namespace

int main(int argc, char** argv) {
  WaitWithoutMuchSpinning(argv);
  return plait::RunPlait(argc, argv);
}
