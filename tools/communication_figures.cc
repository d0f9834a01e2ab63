#include "tools/communication_figures.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <functional>
#include <vector>

#include "base/status_macros.h"
#include "base/tensor.h"
#include "parallel/shared_window.h"

namespace plait {
namespace {

constexpr int64_t kLargeBytes = 4 << 20;  // of one rank
constexpr int kSmallRepetitions = 100;
constexpr int kLargeRepetitions = 9;

// Median time of `body` after two calls to warm up, of the slowest rank. Ranks start together.
absl::StatusOr<double> MedianSeconds(Communicator& world, int repetitions,
                                     const std::function<absl::Status()>& body) {
  std::vector<double> seconds;
  for (int i = 0; i < repetitions + 2; ++i) {
    PLAIT_RETURN_IF_ERROR(world.Barrier());
    const auto begin = std::chrono::steady_clock::now();
    PLAIT_RETURN_IF_ERROR(body());
    const std::chrono::duration<double> passed = std::chrono::steady_clock::now() - begin;
    if (i >= 2) seconds.push_back(passed.count());
  }
  std::nth_element(seconds.begin(), seconds.begin() + repetitions / 2, seconds.end());
  Tensor slowest = Tensor::FromValues<double>({1}, {seconds[repetitions / 2]});
  Stream stream;
  PLAIT_ASSIGN_OR_RETURN(const Event done,
                         world.AllReduce(stream, slowest.vector(), ReduceOperation::kMax));
  PLAIT_RETURN_IF_ERROR(done.Synchronize());
  return slowest.data<double>()[0];
}

absl::StatusOr<double> AllGatherSeconds(Communicator& world, int64_t elements, int repetitions) {
  Tensor own = Tensor::OnHost(DType::kI64, {elements});
  own.FillZero();
  Tensor all = Tensor::OnHost(DType::kI64, {elements * world.size()});
  return MedianSeconds(world, repetitions, [&]() -> absl::Status {
    Stream stream;
    PLAIT_ASSIGN_OR_RETURN(const Event done, world.AllGather(stream, own.vector(), all.vector()));
    return done.Synchronize();
  });
}

absl::StatusOr<double> AllToAllSeconds(Communicator& world, int64_t elements, int repetitions) {
  Tensor input = Tensor::OnHost(DType::kI64, {elements * world.size()});
  input.FillZero();
  Tensor output = Tensor::OnHost(DType::kI64, {elements * world.size()});
  const std::vector<int64_t> counts(static_cast<size_t>(world.size()), elements);
  return MedianSeconds(world, repetitions, [&]() -> absl::Status {
    Stream stream;
    PLAIT_ASSIGN_OR_RETURN(const Event done,
                           world.AllToAll(stream, input.vector(), counts, output.vector(), counts));
    return done.Synchronize();
  });
}

absl::Status MeasureWindow(Communicator& world, CommunicationFigures& figures) {
  const int64_t elements = kLargeBytes / 8;
  PLAIT_ASSIGN_OR_RETURN(
      const std::unique_ptr<SharedWindow> window,
      SharedWindow::Create(world, static_cast<size_t>(kLargeBytes * world.size()), 1));
  if (window == nullptr) return absl::OkStatus();
  figures.has_window = true;
  Tensor shared = window->tensor(0, DType::kI64, {world.size(), elements});
  std::memset(shared.Flat(world.rank() * elements, {elements}).raw(), 1, kLargeBytes);
  PLAIT_RETURN_IF_ERROR(window->Meet());
  PLAIT_ASSIGN_OR_RETURN(figures.window_meet_seconds,
                         MedianSeconds(world, kSmallRepetitions, [&] { return window->Meet(); }));
  Tensor copy = Tensor::OnHost(DType::kI64, {elements});
  PLAIT_ASSIGN_OR_RETURN(const double seconds, MedianSeconds(world, kLargeRepetitions, [&] {
                           for (int peer = 0; peer < world.size(); ++peer) {
                             if (peer == world.rank() && world.size() > 1) continue;
                             std::memcpy(copy.raw(), shared.Flat(peer * elements, {elements}).raw(),
                                         kLargeBytes);
                           }
                           return absl::OkStatus();
                         }));
  const int others = std::max(1, world.size() - 1);
  figures.window_read_bytes_per_second = static_cast<double>(others * kLargeBytes) / seconds;
  return window->Meet();
}

}  // namespace

absl::StatusOr<CommunicationFigures> MeasureCommunication(Communicator& world) {
  CommunicationFigures figures;
  const double others = std::max(1, world.size() - 1);
  PLAIT_ASSIGN_OR_RETURN(figures.barrier_seconds,
                         MedianSeconds(world, kSmallRepetitions, [&] { return world.Barrier(); }));
  PLAIT_ASSIGN_OR_RETURN(figures.all_gather_seconds, AllGatherSeconds(world, 1, kSmallRepetitions));
  PLAIT_ASSIGN_OR_RETURN(const double gather,
                         AllGatherSeconds(world, kLargeBytes / 8, kLargeRepetitions));
  figures.all_gather_bytes_per_second = others * static_cast<double>(kLargeBytes) / gather;
  PLAIT_ASSIGN_OR_RETURN(figures.all_to_all_seconds, AllToAllSeconds(world, 1, kSmallRepetitions));
  PLAIT_ASSIGN_OR_RETURN(const double exchange,
                         AllToAllSeconds(world, kLargeBytes / 8, kLargeRepetitions));
  figures.all_to_all_bytes_per_second = others * static_cast<double>(kLargeBytes) / exchange;
  PLAIT_RETURN_IF_ERROR(MeasureWindow(world, figures));
  return figures;
}

}  // namespace plait
