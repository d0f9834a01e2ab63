#include "data/prefetching_loader.h"

#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "data/sequence_packing.h"

namespace plait {

absl::StatusOr<std::unique_ptr<PrefetchingLoader>> PrefetchingLoader::Create(
    const DataSource& source, const LoaderOptions& options) {
  const StageRows& rows = options.rows;
  if (rows.row_tokens < 1 || rows.rows_per_step < 1 || options.rows_per_microbatch < 1 ||
      options.steps_ahead < 1 || options.first_step < 0 || options.end_step < options.first_step ||
      options.data_parallel_rank < 0 || options.data_parallel_rank >= options.data_parallel_size) {
    return absl::InvalidArgumentError(absl::StrCat(
        "loader: bad numbers: row_tokens ", rows.row_tokens, ", rows_per_step ", rows.rows_per_step,
        ", rows_per_microbatch ", options.rows_per_microbatch, ", steps_ahead ",
        options.steps_ahead, ", steps [", options.first_step, ", ", options.end_step, "), rank ",
        options.data_parallel_rank, " of ", options.data_parallel_size));
  }
  if (rows.rows_per_step % (options.rows_per_microbatch * options.data_parallel_size) != 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "loader: rows_per_microbatch ", options.rows_per_microbatch, " x data-parallel ranks ",
        options.data_parallel_size, " does not divide rows per step ", rows.rows_per_step));
  }
  return std::unique_ptr<PrefetchingLoader>(new PrefetchingLoader(source, options));
}

PrefetchingLoader::PrefetchingLoader(const DataSource& source, const LoaderOptions& options)
    : source_(source),
      options_(options),
      microbatches_(options.rows.rows_per_step /
                    (options.rows_per_microbatch * options.data_parallel_size)),
      thread_([this] { Run(); }) {}

PrefetchingLoader::~PrefetchingLoader() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

absl::StatusOr<std::vector<Batch>> PrefetchingLoader::Assemble(int64_t step) const {
  std::vector<Batch> batches;
  std::vector<Row> rows(static_cast<size_t>(options_.rows_per_microbatch));
  for (int64_t j = 0; j < microbatches_; ++j) {
    const int64_t leaf = j * options_.data_parallel_size + options_.data_parallel_rank;
    for (int64_t i = 0; i < options_.rows_per_microbatch; ++i) {
      const int64_t row = leaf * options_.rows_per_microbatch + i;
      absl::Status status =
          source_.ReadRow(options_.rows, step, row, &rows[static_cast<size_t>(i)]);
      if (!status.ok()) return Annotate(status, absl::StrCat("data of step ", step, " row ", row));
    }
    batches.push_back(PackRows(rows, options_.rows.row_tokens));
  }
  return batches;
}

void PrefetchingLoader::Run() {
  bool failed = false;
  for (int64_t step = options_.first_step; step < options_.end_step && !failed; ++step) {
    absl::StatusOr<std::vector<Batch>> batches = Assemble(step);
    failed = !batches.ok();
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] {
      return stopping_ || static_cast<int64_t>(queue_.size()) < options_.steps_ahead;
    });
    if (stopping_) return;
    queue_.push_back(std::move(batches));
    changed_.notify_all();
  }
  std::lock_guard lock(mutex_);
  finished_ = true;
  changed_.notify_all();
}

absl::StatusOr<std::vector<Batch>> PrefetchingLoader::NextStep() {
  const auto begin = std::chrono::steady_clock::now();
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return finished_ || !queue_.empty(); });
  wait_seconds_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  if (queue_.empty()) {
    return absl::OutOfRangeError(
        absl::StrCat("loader: the stage has no step after ", options_.end_step - 1));
  }
  if (!queue_.front().ok()) return queue_.front().status();  // stays there for later calls
  std::vector<Batch> batches = *std::move(queue_.front());
  queue_.pop_front();
  changed_.notify_all();
  return batches;
}

double PrefetchingLoader::TakeWaitSeconds() {
  std::lock_guard lock(mutex_);
  return std::exchange(wait_seconds_, 0.0);
}

}  // namespace plait
