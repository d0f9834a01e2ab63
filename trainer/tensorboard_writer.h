// Scalars of a run for TensorBoard: RUN/tensorboard/events.out.tfevents.<seconds>.<host>.<process>.
// A file is a sequence of records, each
//   u64 length, u32 masked CRC of the length, `length` bytes of Event (event.proto), u32 masked CRC
//   of these bytes; little-endian
//   masked CRC = rotate_right(CRC-32C, 15) + 0xa282ead8
// Every start of a run writes a new file, which sorts after the earlier ones. Its second record
// makes TensorBoard drop what an earlier process wrote for steps that are now done again.
// Source: the format of TensorFlow's record_writer and events_writer.
//
// Tags: loss/*, optimizer/*, speed/*, wait/*, memory_gigabytes, held_out/*,
// tokens_per_expert/<layer>/{busiest,idlest}_over_mean, activation_maximum/<block>; where experts
// are dealt over ranks, expert_load/<layer>/{busiest_rank_over_mean,waves,recomputed_waves}.
#pragma once

#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "trainer/evaluation.h"
#include "trainer/metrics.h"

namespace plait {

namespace event::v1 {
class Event;
}

class TensorBoardWriter {
 public:
  // One that writes nothing: of the ranks but the first.
  static TensorBoardWriter None() { return TensorBoardWriter(); }
  // Makes the folder where it is missing. Values up to `resumed_step` (0: none) of earlier files go
  // on being shown. Errors of SystemError.
  static absl::StatusOr<TensorBoardWriter> Open(const std::string& folder, int64_t resumed_step);

  // On disk, as far as the operating system is concerned, when these return. Errors of SystemError.
  absl::Status WriteStep(const StepMetrics& metrics);
  absl::Status WriteEvaluation(int64_t step, const EvaluationResult& result);

  const std::string& path() const { return path_; }

 private:
  struct Close {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };

  TensorBoardWriter() = default;
  absl::Status Write(event::v1::Event& event, int64_t step);

  std::string path_;
  std::unique_ptr<std::FILE, Close> file_;
};

}  // namespace plait
