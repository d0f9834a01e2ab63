// How fast the ranks of a job reach each other: messages and shared memory, measured.
#pragma once

#include "absl/status/statusor.h"
#include "parallel/communicator.h"

namespace plait {

// Each figure is the median of its repetitions, of the slowest rank. Bandwidth is what one rank
// receives from the others, a second.
struct CommunicationFigures {
  double barrier_seconds = 0;
  double all_gather_seconds = 0;  // of 8 bytes a rank
  double all_gather_bytes_per_second = 0;
  double all_to_all_seconds = 0;  // of 8 bytes a pair
  double all_to_all_bytes_per_second = 0;
  // Where all ranks can map the same memory.
  bool has_window = false;
  double window_meet_seconds = 0;
  double window_read_bytes_per_second = 0;
};

// Collective.
absl::StatusOr<CommunicationFigures> MeasureCommunication(Communicator& world);

}  // namespace plait
