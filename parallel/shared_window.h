// SharedWindow: memory that all ranks of a communicator read and write, where they are on one host,
// with flags that say when. Each rank owns one word of every flag and only raises it; the others
// wait until it is high enough. What a rank wrote before it posted, the waiting ones see.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <source_location>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/tensor.h"
#include "parallel/communicator.h"

namespace plait {

class SharedWindow {
 public:
  // Collective. nullptr on every rank where they are not on one host. The memory is zeroed; the
  // communicator outlives the window.
  static absl::StatusOr<std::unique_ptr<SharedWindow>> Create(Communicator& communicator,
                                                              size_t bytes, int num_flags);

  // A view of the memory, which it keeps alive.
  Tensor tensor(size_t offset_bytes, DType dtype, const Shape& shape) const;

  // Raises this rank's word of the flag.
  void Post(int flag, int64_t value);
  // Whether every rank's word is at least `value`.
  bool AllReached(int flag, int64_t value) const;
  // Until every rank's word is at least `value`. Aborted where the job ends meanwhile.
  absl::Status WaitForAll(int flag, int64_t value,
                          std::source_location site = std::source_location::current());
  // All ranks meet. Uses flag 0, which is not for Post.
  absl::Status Meet(std::source_location site = std::source_location::current());

 private:
  struct alignas(64) Word {
    std::atomic<int64_t> value;
  };

  SharedWindow(Communicator& communicator, std::shared_ptr<void> memory, int num_flags)
      : communicator_(communicator), memory_(std::move(memory)), num_flags_(num_flags) {}
  Word& word(int flag, int rank) const {
    return static_cast<Word*>(memory_.get())[flag * communicator_.size() + rank];
  }

  Communicator& communicator_;
  std::shared_ptr<void> memory_;  // the words, then the data
  int num_flags_;
  int64_t meetings_ = 0;
};

}  // namespace plait
