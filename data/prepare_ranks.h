// PrepareRanks: how far the ranks of one run of Prepare are, and the points where all of them meet.
// Between two meetings ranks work alone, for minutes; who is early sleeps, and rank 0 shows the
// progress of all together. On one host the ranks see each other through shared memory; where they
// are on several, rank 0 takes the others to be as far as itself (spans are equal in bytes) and
// waiting is the communicator's.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string_view>

#include "absl/status/statusor.h"
#include "data/prepare.h"
#include "parallel/communicator.h"

namespace plait {

class PrepareRanks {
 public:
  // Collective. show: may be empty; called on rank 0 alone.
  static absl::StatusOr<std::unique_ptr<PrepareRanks>> Create(
      std::shared_ptr<Communicator> world, std::function<void(const PrepareProgress&)> show);

  // The work until the next meeting: its name (a literal) and the bytes of all ranks together.
  void Begin(std::string_view stage, int64_t bytes_total);
  // What this rank has done of it so far.
  void Report(int64_t bytes, int64_t tokens);
  // Whether another rank has failed: its own reason ends all at the next meeting.
  bool OthersFailed() const;

  // Collective, the end of every phase. Waits for all ranks; Ok where all are, else on every rank
  // the failure of the lowest that failed (status_agreement.h).
  absl::Status Meet(const absl::Status& own);

  Communicator& world() const { return *world_; }
  int rank() const { return world_->rank(); }
  int size() const { return world_->size(); }

 private:
  // One rank's, written by it alone.
  struct alignas(64) Line {
    std::atomic<int64_t> stage;  // that bytes and tokens are of
    std::atomic<int64_t> bytes;
    std::atomic<int64_t> tokens;
    std::atomic<int64_t> meetings;
    std::atomic<int64_t> failed;
  };

  PrepareRanks(std::shared_ptr<Communicator> world,
               std::function<void(const PrepareProgress&)> show)
      : world_(std::move(world)), show_(std::move(show)) {}
  bool AllArrived() const;
  void Show() const;

  std::shared_ptr<Communicator> world_;
  std::function<void(const PrepareProgress&)> show_;
  std::shared_ptr<void> memory_;
  Line* lines_ = nullptr;  // [size]; nullptr where the ranks are on several hosts
  Line own_{};             // this rank's where lines_ is nullptr
  Line* mine_ = &own_;
  std::string_view stage_;
  int64_t bytes_total_ = 0;
};

}  // namespace plait
