#include <unistd.h>

#include <cstdlib>

#include "tools/plait.h"

namespace {

// OpenMP's threads spin while they wait, which starves every other program on the core, and this
// one's own threads where cores are shared: a step was seen to take ten times as long. Giving the
// core away costs microseconds. The OpenMP library reads the policy before main, so the program
// starts itself once more; a policy of the user's own stands.
void WaitWithoutSpinning(char** argv) {
  if (std::getenv("OMP_WAIT_POLICY") != nullptr) return;
  setenv("OMP_WAIT_POLICY", "passive", /*overwrite=*/1);
  execv("/proc/self/exe", argv);
  // Where it cannot be started again it runs as it is.
}

}  // namespace

int main(int argc, char** argv) {
  WaitWithoutSpinning(argv);
  return plait::RunPlait(argc, argv);
}
