#include "base/early_writeback.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "base/durable_file.h"

namespace plait {
namespace {

constexpr int64_t kBytesBetween = 32 << 20;

}  // namespace

absl::StatusOr<EarlyWriteback> EarlyWriteback::Of(const std::string& path) {
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) return SystemError(path, "cannot be opened", errno);
  return EarlyWriteback(descriptor);
}

EarlyWriteback::EarlyWriteback(EarlyWriteback&& other) noexcept { *this = std::move(other); }

EarlyWriteback& EarlyWriteback::operator=(EarlyWriteback&& other) noexcept {
  if (this == &other) return *this;
  if (descriptor_ >= 0) ::close(descriptor_);
  descriptor_ = std::exchange(other.descriptor_, -1);
  pending_ = other.pending_;
  return *this;
}

EarlyWriteback::~EarlyWriteback() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

void EarlyWriteback::Wrote(int64_t bytes) {
  pending_ += bytes;
  if (pending_ < kBytesBetween) return;
  pending_ = 0;
  ::sync_file_range(descriptor_, 0, 0, SYNC_FILE_RANGE_WRITE);
}

}  // namespace plait
