// Makes the device begin with what is written to a file while more of it is made, so that syncing
// it at the end waits little. A hint: nothing is promised and nothing fails.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"

namespace plait {

class EarlyWriteback {
 public:
  // Of a file that is there and is being written, by whomever. Errors of SystemError.
  static absl::StatusOr<EarlyWriteback> Of(const std::string& path);

  EarlyWriteback(EarlyWriteback&& other) noexcept;
  EarlyWriteback& operator=(EarlyWriteback&& other) noexcept;
  ~EarlyWriteback();

  // To be told after each write.
  void Wrote(int64_t bytes);

 private:
  explicit EarlyWriteback(int descriptor) : descriptor_(descriptor) {}

  int descriptor_ = -1;
  int64_t pending_ = 0;
};

}  // namespace plait
