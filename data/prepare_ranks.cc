#include "data/prepare_ranks.h"

#include <algorithm>
#include <chrono>
#include <thread>
#include <utility>

#include "base/status_macros.h"
#include "parallel/status_agreement.h"

namespace plait {
namespace {

constexpr std::chrono::microseconds kShortestSleep(100);
constexpr std::chrono::microseconds kLongestSleep(20'000);

}  // namespace

absl::StatusOr<std::unique_ptr<PrepareRanks>> PrepareRanks::Create(
    std::shared_ptr<Communicator> world, std::function<void(const PrepareProgress&)> show) {
  auto ranks = std::unique_ptr<PrepareRanks>(new PrepareRanks(std::move(world), std::move(show)));
  const size_t size = static_cast<size_t>(ranks->size());
  PLAIT_ASSIGN_OR_RETURN(ranks->memory_, ranks->world_->AllocateShared(size * sizeof(Line)));
  if (ranks->memory_ != nullptr) {
    ranks->lines_ = static_cast<Line*>(ranks->memory_.get());
    ranks->mine_ = ranks->lines_ + ranks->rank();
  }
  return ranks;
}

void PrepareRanks::Begin(std::string_view stage, int64_t bytes_total) {
  stage_ = stage;
  bytes_total_ = bytes_total;
  mine_->bytes = 0;
  mine_->tokens = 0;
  ++mine_->stage;
  Show();
}

void PrepareRanks::Report(int64_t bytes, int64_t tokens) {
  mine_->bytes = bytes;
  mine_->tokens = tokens;
  Show();
}

bool PrepareRanks::OthersFailed() const {
  for (int peer = 0; lines_ != nullptr && peer < size(); ++peer) {
    if (peer != rank() && lines_[peer].failed != 0) return true;
  }
  return false;
}

absl::Status PrepareRanks::Meet(const absl::Status& own) {
  if (!own.ok()) mine_->failed = 1;
  ++mine_->meetings;
  std::chrono::microseconds sleep = kShortestSleep;
  while (!AllArrived()) {
    PLAIT_RETURN_IF_ERROR(world_->JobStatus());
    std::this_thread::sleep_for(sleep);
    sleep = std::min(2 * sleep, kLongestSleep);
    Show();
  }
  Show();
  return AgreeOnStatus(*world_, own);
}

bool PrepareRanks::AllArrived() const {
  for (int peer = 0; lines_ != nullptr && peer < size(); ++peer) {
    if (lines_[peer].meetings < mine_->meetings) return false;
  }
  return true;
}

void PrepareRanks::Show() const {
  if (rank() != 0 || !show_ || stage_.empty()) return;
  PrepareProgress progress{.stage = stage_, .bytes_total = bytes_total_};
  for (int peer = 0; peer < size(); ++peer) {
    const Line& line = lines_ != nullptr ? lines_[peer] : *mine_;
    // A rank that has not begun this stage yet tells of the one before.
    if (line.stage < mine_->stage) continue;
    progress.bytes_done += line.bytes;
    progress.tokens_done += line.tokens;
  }
  progress.bytes_done = std::min(progress.bytes_done, bytes_total_);
  show_(progress);
}

}  // namespace plait
