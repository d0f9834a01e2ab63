#include "base/segmented_digest.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/durable_file.h"
#include "base/execution.h"
#include "base/status_macros.h"

namespace plait {
namespace {

constexpr int64_t kBufferBytes = 128 << 10;  // stays in a core's cache
// Segments that a thread takes at once: a run of MiBs on the device.
constexpr int64_t kRunBytes = 16 << 20;
// They wait for the device for the most part: a rank's share of the cores is no bound.
constexpr int kMaxThreads = 4;

class OpenFile {
 public:
  static absl::StatusOr<OpenFile> Open(const std::string& path) {
    OpenFile file(path);
    file.descriptor_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (file.descriptor_ >= 0) return file;
    return SystemError(path, "cannot be opened", errno);
  }
  OpenFile(OpenFile&& other) noexcept
      : path_(std::move(other.path_)), descriptor_(std::exchange(other.descriptor_, -1)) {}
  ~OpenFile() {
    if (descriptor_ >= 0) ::close(descriptor_);
  }

  absl::StatusOr<int64_t> Bytes() const {
    struct stat description {};
    if (::fstat(descriptor_, &description) != 0) return ReadFailed(std::strerror(errno));
    return static_cast<int64_t>(description.st_size);
  }

  absl::StatusOr<DigestBytes> DigestOfRange(int64_t begin, int64_t end,
                                            std::vector<char>& buffer) const {
    DigestStream digest;
    while (begin < end) {
      const auto wanted = static_cast<size_t>(std::min(end - begin, kBufferBytes));
      const ssize_t got = ::pread(descriptor_, buffer.data(), wanted, begin);
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) return ReadFailed(std::strerror(errno));
      if (got == 0) return ReadFailed("it has become shorter");
      digest.Add(buffer.data(), static_cast<size_t>(got));
      begin += got;
    }
    return digest.Bytes();
  }

 private:
  explicit OpenFile(std::string path) : path_(std::move(path)) {}

  absl::Status ReadFailed(const char* reason) const {
    return absl::DataLossError(absl::StrCat(path_, ": cannot be read: ", reason));
  }

  std::string path_;
  int descriptor_ = -1;
};

// Fills in the digests of `segments` of the file.
absl::Status SumSegments(const OpenFile& file, int64_t file_bytes, int64_t segment_bytes,
                         const std::vector<int64_t>& segments, std::vector<DigestBytes>& digests) {
  const size_t run = static_cast<size_t>(std::max<int64_t>(1, kRunBytes / segment_bytes));
  std::atomic<size_t> next = 0;
  std::atomic<bool> failed = false;
  std::mutex mutex;
  absl::Status status;
  const auto work = [&] {
    std::vector<char> buffer(kBufferBytes);
    while (!failed) {
      const size_t first = next.fetch_add(run);
      if (first >= segments.size()) return;
      for (size_t i = first; i < std::min(first + run, segments.size()); ++i) {
        const int64_t begin = segments[i] * segment_bytes;
        const absl::StatusOr<DigestBytes> digest =
            file.DigestOfRange(begin, std::min(begin + segment_bytes, file_bytes), buffer);
        if (!digest.ok()) {
          const std::lock_guard<std::mutex> lock(mutex);
          status.Update(digest.status());
          failed = true;
          return;
        }
        digests[static_cast<size_t>(segments[i])] = *digest;
      }
    }
  };
  const size_t threads = std::min<size_t>(std::min(kMaxThreads, NumAvailableCores()),
                                          (segments.size() + run - 1) / run);
  std::vector<std::thread> others;
  try {
    for (size_t i = 1; i < threads; ++i) others.emplace_back(work);
  } catch (const std::system_error&) {
    // No more threads: these do it.
  }
  work();
  for (std::thread& other : others) other.join();
  return status;
}

}  // namespace

absl::StatusOr<std::string> SegmentedDigestOfFile(const std::string& path, int64_t segment_bytes) {
  return SegmentedDigest(segment_bytes).Finish(path);
}

void SegmentedDigest::Add(int64_t offset, const void* data, int64_t bytes) {
  const char* from = static_cast<const char*>(data);
  const int64_t end = offset + bytes;
  end_ = std::max(end_, end);
  while (offset < end) {
    const int64_t piece = std::min(end - offset, segment_bytes_ - offset % segment_bytes_);
    AddToSegment(offset, from, piece);
    offset += piece;
    from += piece;
  }
}

void SegmentedDigest::AddToSegment(int64_t offset, const char* data, int64_t bytes) {
  if (offset % segment_bytes_ == 0) {
    open_ = std::make_unique<DigestStream>();
  } else if (offset != next_) {
    open_.reset();
  }
  of_segment_.erase(offset / segment_bytes_);  // written a second time
  next_ = offset + bytes;
  if (!open_) return;
  open_->Add(data, static_cast<size_t>(bytes));
  if (next_ % segment_bytes_ == 0) {
    of_segment_[offset / segment_bytes_] = open_->Bytes();
    open_.reset();
  }
}

absl::StatusOr<std::string> SegmentedDigest::Finish(const std::string& path) {
  PLAIT_ASSIGN_OR_RETURN(const OpenFile file, OpenFile::Open(path));
  PLAIT_ASSIGN_OR_RETURN(const int64_t bytes, file.Bytes());
  if (bytes < end_) {
    return absl::DataLossError(
        absl::StrCat(path, ": wrote ", end_, " bytes, the file has ", bytes));
  }
  const int64_t count = bytes / segment_bytes_ + (bytes % segment_bytes_ == 0 ? 0 : 1);
  std::vector<DigestBytes> digests(static_cast<size_t>(count));
  std::vector<int64_t> to_read;
  for (int64_t i = 0; i < count; ++i) {
    const auto known = of_segment_.find(i);
    if (known == of_segment_.end()) {
      to_read.push_back(i);
    } else {
      digests[static_cast<size_t>(i)] = known->second;
    }
  }
  PLAIT_RETURN_IF_ERROR(SumSegments(file, bytes, segment_bytes_, to_read, digests));
  return DigestOf(digests.data(), digests.size() * sizeof(DigestBytes));
}

}  // namespace plait
