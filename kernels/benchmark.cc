#include "kernels/benchmark.h"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "base/random.h"
#include "base/status_macros.h"

namespace plait {
namespace {

constexpr int kLeastRuns = 3;
// No power of two: rows of a tensor differ.
constexpr int64_t kDistinct = 1'000'003;

absl::StatusOr<double> DeviceSeconds(Execution& execution, int64_t runs,
                                     const std::function<absl::Status()>& run) {
  DeviceRuntime& runtime = *execution.runtime();
  StreamHandle stream = execution.compute().handle();
  PLAIT_ASSIGN_OR_RETURN(const std::shared_ptr<PendingWork> begin, runtime.RecordTime(stream));
  for (int64_t i = 0; i < runs; ++i) PLAIT_RETURN_IF_ERROR(run());
  PLAIT_ASSIGN_OR_RETURN(const std::shared_ptr<PendingWork> end, runtime.RecordTime(stream));
  PLAIT_ASSIGN_OR_RETURN(const double seconds, runtime.SecondsBetween(*begin, *end));
  PLAIT_RETURN_IF_ERROR(execution.compute().Synchronize());  // errors of kernels
  return seconds / static_cast<double>(runs);
}

absl::StatusOr<double> HostSeconds(const std::function<absl::Status()>& run) {
  using Clock = std::chrono::steady_clock;
  const Clock::time_point start = Clock::now();
  PLAIT_RETURN_IF_ERROR(run());
  return std::chrono::duration<double>(Clock::now() - start).count();
}

}  // namespace

absl::StatusOr<Tensor> BenchmarkTensor(Execution& execution, DType dtype, const Shape& shape,
                                       float least) {
  Tensor tensor = execution.Empty(dtype, shape);
  const int64_t elements = tensor.num_elements();
  const int64_t distinct = std::min(elements, kDistinct);
  const RandomKey key(/*seed=*/1, RandomPurpose::kTest, "kernel benchmark");
  Tensor numbers = Tensor::OnHost(DType::kF32, {distinct});
  for (int64_t i = 0; i < distinct; ++i) {
    numbers.data<float>()[i] =
        static_cast<float>(key.Words(static_cast<uint64_t>(i))[0]) * 0x1.0p-32f + least;
  }
  if (dtype != DType::kF32) numbers = numbers.Converted(dtype);
  Tensor first = tensor.Flat(0, {distinct});
  PLAIT_RETURN_IF_ERROR(execution.Copy(numbers, first));
  // What is there, behind itself: twice as much each time.
  for (int64_t done = distinct; done < elements;) {
    const int64_t more = std::min(done, elements - done);
    Tensor next = tensor.Flat(done, {more});
    PLAIT_RETURN_IF_ERROR(execution.Copy(tensor.Flat(0, {more}), next));
    done += more;
  }
  PLAIT_RETURN_IF_ERROR(execution.compute().Synchronize());  // `numbers` ends here
  return tensor;
}

absl::StatusOr<double> LeastSeconds(Execution& execution, double seconds,
                                    const std::function<absl::Status()>& run) {
  const bool on_device = execution.device().kind != DeviceKind::kCpu;
  // Between two runs that the host waits for, a device stands still: it gets enough at once for
  // that not to count.
  constexpr double kBatchSeconds = 2e-3;
  constexpr int64_t kMostRuns = 200;
  int64_t runs = 1;
  PLAIT_RETURN_IF_ERROR(run());
  if (on_device) {
    PLAIT_ASSIGN_OR_RETURN(const double once, DeviceSeconds(execution, 1, run));
    runs = std::clamp<int64_t>(std::llround(std::ceil(kBatchSeconds / std::max(once, 1e-9))), 1,
                               kMostRuns);
  }
  double least = 0, sum = 0;
  for (int round = 0; round < kLeastRuns || sum < seconds; ++round) {
    PLAIT_ASSIGN_OR_RETURN(const double once,
                           on_device ? DeviceSeconds(execution, runs, run) : HostSeconds(run));
    least = round == 0 ? once : std::min(least, once);
    sum += once * static_cast<double>(runs);
  }
  return least;
}

}  // namespace plait
