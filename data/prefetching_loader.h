// PrefetchingLoader: this rank's microbatches, step after step, assembled ahead of time by one
// thread into a bounded queue. Step s of the stage has rows_per_step rows; leaf i holds rows [i x
// rows_per_microbatch, (i + 1) x rows_per_microbatch). Microbatch j of data-parallel rank r of R is
// leaf j x R + r. What a step holds is a function of its number, so a loader is started at any step
// and has no state to save.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "data/batch.h"
#include "data/data_source.h"

namespace plait {

struct LoaderOptions {
  StageRows rows;
  int64_t rows_per_microbatch = 1;
  int64_t data_parallel_rank = 0;
  int64_t data_parallel_size = 1;
  int64_t first_step = 0;   // of the stage
  int64_t end_step = 0;     // one past the last
  int64_t steps_ahead = 2;  // at least 1
};

class PrefetchingLoader {
 public:
  // The source outlives the loader. InvalidArgument, naming the numbers, where rows_per_microbatch
  // x data_parallel_size does not divide rows_per_step, or a number makes no sense.
  static absl::StatusOr<std::unique_ptr<PrefetchingLoader>> Create(const DataSource& source,
                                                                   const LoaderOptions& options);

  PrefetchingLoader(const PrefetchingLoader&) = delete;
  PrefetchingLoader& operator=(const PrefetchingLoader&) = delete;
  // Stops the thread; what is in the queue is dropped.
  ~PrefetchingLoader();

  // The microbatches of the next step. Waits until they are there. OutOfRange after the last step;
  // any error of the source, with the step, then and on every later call.
  absl::StatusOr<std::vector<Batch>> NextStep();

  // Seconds that NextStep has waited since the last call of this.
  double TakeWaitSeconds();
  int64_t microbatches_per_step() const { return microbatches_; }

 private:
  PrefetchingLoader(const DataSource& source, const LoaderOptions& options);

  void Run();
  absl::StatusOr<std::vector<Batch>> Assemble(int64_t step) const;

  const DataSource& source_;
  const LoaderOptions options_;
  const int64_t microbatches_;
  double wait_seconds_ = 0;

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<absl::StatusOr<std::vector<Batch>>> queue_;  // an error is the last
  bool finished_ = false;                                 // the thread adds nothing more
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace plait
