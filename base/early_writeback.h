// Makes the device begin with what is written to a file while more of it is made, so that syncing
// it at the end waits little. A thread of its own does it: handing bytes to the device takes a good
// part of the time that writing them does. A hint: nothing is promised and nothing fails.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"

namespace plait {

class EarlyWriteback {
 public:
  // Of a file that is there and is being written, by whomever. Errors of SystemError.
  static absl::StatusOr<EarlyWriteback> Of(const std::string& path);

  EarlyWriteback(EarlyWriteback&& other) noexcept;
  EarlyWriteback& operator=(EarlyWriteback&& other) noexcept;
  // Waits for what it has begun.
  ~EarlyWriteback();

  // To be told after each write.
  void Wrote(int64_t bytes);

 private:
  class Thread;
  explicit EarlyWriteback(std::unique_ptr<Thread> thread);

  std::unique_ptr<Thread> thread_;
};

}  // namespace plait
