#include "base/early_writeback.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "base/durable_file.h"

namespace plait {
namespace {

constexpr int64_t kBytesBetween = 16 << 20;

}  // namespace

class EarlyWriteback::Thread {
 public:
  explicit Thread(int descriptor) : descriptor_(descriptor), thread_([this] { Run(); }) {}
  ~Thread() {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      finished_ = true;
    }
    changed_.notify_one();
    thread_.join();
    ::close(descriptor_);
  }

  void Wrote(int64_t bytes) {
    const std::lock_guard<std::mutex> lock(mutex_);
    pending_ += bytes;
    if (pending_ >= kBytesBetween) changed_.notify_one();
  }

 private:
  void Run() {
    std::unique_lock<std::mutex> lock(mutex_);
    while (true) {
      changed_.wait(lock, [this] { return finished_ || pending_ >= kBytesBetween; });
      if (finished_) return;
      pending_ = 0;
      lock.unlock();
      ::sync_file_range(descriptor_, 0, 0, SYNC_FILE_RANGE_WRITE);
      lock.lock();
    }
  }

  const int descriptor_;
  std::mutex mutex_;
  std::condition_variable changed_;
  int64_t pending_ = 0;
  bool finished_ = false;
  std::thread thread_;  // last: it uses the others
};

absl::StatusOr<EarlyWriteback> EarlyWriteback::Of(const std::string& path) {
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) return SystemError(path, "cannot be opened", errno);
  return EarlyWriteback(std::make_unique<Thread>(descriptor));
}

EarlyWriteback::EarlyWriteback(std::unique_ptr<Thread> thread) : thread_(std::move(thread)) {}
EarlyWriteback::EarlyWriteback(EarlyWriteback&& other) noexcept = default;
EarlyWriteback& EarlyWriteback::operator=(EarlyWriteback&& other) noexcept = default;
EarlyWriteback::~EarlyWriteback() = default;

void EarlyWriteback::Wrote(int64_t bytes) { thread_->Wrote(bytes); }

}  // namespace plait
