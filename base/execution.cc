#include "base/execution.h"

#include <sched.h>

#include <algorithm>

namespace plait {

int NumAvailableCores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) != 0) return 1;
  return std::max(1, CPU_COUNT(&set));
}

Execution::Execution(const ExecutionOptions& options)
    : device_(options.device),
      num_threads_(options.num_threads > 0 ? options.num_threads : NumAvailableCores()),
      allocator_(Allocator::Create()) {}

}  // namespace plait
