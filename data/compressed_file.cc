#include "data/compressed_file.h"

#include <fcntl.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/durable_file.h"
#include "base/status_macros.h"

namespace plait {
namespace {

constexpr size_t kStoredBlockBytes = 1 << 18;
constexpr size_t kMagicBytes = 4;
// Largest window that zstd writes (--long=31).
constexpr int kMaxWindowLog = 31;

Compression CompressionOfBytes(std::string_view magic) {
  const auto byte = [&magic](size_t i) { return static_cast<unsigned char>(magic[i]); };
  if (magic.size() >= 2 && byte(0) == 0x1f && byte(1) == 0x8b) return Compression::kGzip;
  if (magic.size() < kMagicBytes) return Compression::kNone;
  const bool frame = byte(0) == 0x28 && byte(1) == 0xb5 && byte(2) == 0x2f && byte(3) == 0xfd;
  // Frames of user data, which readers skip; parallel compressors begin with one.
  const bool skippable =
      (byte(0) & 0xf0) == 0x50 && byte(1) == 0x2a && byte(2) == 0x4d && byte(3) == 0x18;
  return frame || skippable ? Compression::kZstandard : Compression::kNone;
}

absl::Status Damaged(const std::string& path, const char* format, absl::string_view what) {
  return absl::DataLossError(absl::StrCat(path, ": damaged ", format, " data: ", what));
}

}  // namespace

// The file as it is stored: plain reads, and a block of bytes that decoders take from.
class InputFile::Source {
 public:
  static absl::StatusOr<std::unique_ptr<Source>> Open(const std::string& path, int64_t offset) {
    auto source = std::make_unique<Source>();
    source->path_ = path;
    source->descriptor_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (source->descriptor_ < 0) return SystemError(path, "cannot be opened", errno);
    if (offset > 0 && ::lseek(source->descriptor_, offset, SEEK_SET) != offset) {
      return SystemError(path, "cannot be read from its middle", errno);
    }
    return source;
  }
  Source() = default;
  Source(const Source&) = delete;
  Source& operator=(const Source&) = delete;
  ~Source() {
    if (descriptor_ >= 0) ::close(descriptor_);
  }

  absl::StatusOr<size_t> Read(char* data, size_t capacity) {
    while (true) {
      const ssize_t got = ::read(descriptor_, data, capacity);
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) {
        return absl::DataLossError(absl::StrCat(path_, ": cannot be read: ", std::strerror(errno)));
      }
      bytes_read_ += got;
      return static_cast<size_t>(got);
    }
  }

  // Bytes not taken yet; reads more where there are none. Empty at the end of the file.
  absl::StatusOr<std::string_view> Stored() {
    if (at_ == end_) {
      block_.resize(kStoredBlockBytes);
      PLAIT_ASSIGN_OR_RETURN(end_, Read(block_.data(), block_.size()));
      at_ = 0;
    }
    return std::string_view(block_.data() + at_, end_ - at_);
  }
  void Take(size_t bytes) { at_ += bytes; }

  const std::string& path() const { return path_; }
  int64_t bytes_taken() const { return bytes_read_ - static_cast<int64_t>(end_ - at_); }

 private:
  std::string path_;
  int descriptor_ = -1;
  int64_t bytes_read_ = 0;
  std::vector<char> block_;
  size_t at_ = 0;
  size_t end_ = 0;
};

class InputFile::Decoder {
 public:
  virtual ~Decoder() = default;
  virtual absl::StatusOr<size_t> Read(Source& source, char* data, size_t capacity) = 0;
};

class InputFile::Gzip final : public Decoder {
 public:
  Gzip() {
    // 16: a gzip header and checksum are required.
    PLAIT_CHECK(::inflateInit2(&stream_, 16 + MAX_WBITS) == Z_OK);
  }
  ~Gzip() override { ::inflateEnd(&stream_); }

  absl::StatusOr<size_t> Read(Source& source, char* data, size_t capacity) override {
    capacity = std::min<size_t>(capacity, 1 << 30);
    while (true) {
      PLAIT_ASSIGN_OR_RETURN(const std::string_view stored, source.Stored());
      if (stored.empty()) {
        if (between_streams_) return size_t{0};
        return Damaged(source.path(), "gzip", "the file ends too early, it was cut short");
      }
      stream_.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(stored.data()));
      stream_.avail_in = static_cast<uInt>(stored.size());
      stream_.next_out = reinterpret_cast<Bytef*>(data);
      stream_.avail_out = static_cast<uInt>(capacity);
      between_streams_ = false;
      const int code = ::inflate(&stream_, Z_NO_FLUSH);
      source.Take(stored.size() - stream_.avail_in);
      if (code == Z_STREAM_END) {
        between_streams_ = true;
        PLAIT_CHECK(::inflateReset(&stream_) == Z_OK);
      } else if (code == Z_MEM_ERROR) {
        return absl::ResourceExhaustedError(absl::StrCat(source.path(), ": no memory to unpack"));
      } else if (code != Z_OK && code != Z_BUF_ERROR) {
        return Damaged(source.path(), "gzip",
                       stream_.msg != nullptr ? stream_.msg : "not a gzip stream");
      }
      const size_t unpacked = capacity - stream_.avail_out;
      if (unpacked > 0) return unpacked;
    }
  }

 private:
  z_stream stream_{};
  bool between_streams_ = false;
};

class InputFile::Zstandard final : public Decoder {
 public:
  Zstandard() : stream_(::ZSTD_createDStream()) {
    PLAIT_CHECK(stream_ != nullptr);
    ::ZSTD_DCtx_setParameter(stream_, ZSTD_d_windowLogMax, kMaxWindowLog);
  }
  ~Zstandard() override { ::ZSTD_freeDStream(stream_); }

  absl::StatusOr<size_t> Read(Source& source, char* data, size_t capacity) override {
    while (true) {
      PLAIT_ASSIGN_OR_RETURN(const std::string_view stored, source.Stored());
      ZSTD_inBuffer input = {stored.data(), stored.size(), 0};
      ZSTD_outBuffer output = {data, capacity, 0};
      // At the end of the file, too: the decoder may hold back what did not fit before.
      if (stored.empty() && between_frames_) return size_t{0};
      const size_t wanted = ::ZSTD_decompressStream(stream_, &output, &input);
      source.Take(input.pos);
      if (::ZSTD_isError(wanted)) {
        return Damaged(source.path(), "zstd", ::ZSTD_getErrorName(wanted));
      }
      between_frames_ = wanted == 0;
      if (output.pos > 0) return output.pos;
      if (stored.empty()) {
        return Damaged(source.path(), "zstd", "the file ends too early, it was cut short");
      }
    }
  }

 private:
  ZSTD_DStream* stream_;
  bool between_frames_ = false;
};

InputFile::InputFile() = default;
InputFile::InputFile(InputFile&&) noexcept = default;
InputFile& InputFile::operator=(InputFile&&) noexcept = default;
InputFile::~InputFile() = default;

absl::StatusOr<Compression> InputFile::CompressionOf(const std::string& path) {
  PLAIT_ASSIGN_OR_RETURN(const std::unique_ptr<Source> source, Source::Open(path, 0));
  char magic[kMagicBytes];
  size_t length = 0;
  while (length < kMagicBytes) {
    PLAIT_ASSIGN_OR_RETURN(const size_t got, source->Read(magic + length, kMagicBytes - length));
    if (got == 0) break;
    length += got;
  }
  return CompressionOfBytes({magic, length});
}

absl::StatusOr<InputFile> InputFile::Open(const std::string& path, int64_t offset) {
  InputFile file;
  PLAIT_ASSIGN_OR_RETURN(file.source_, Source::Open(path, offset));
  if (offset > 0) return file;
  PLAIT_ASSIGN_OR_RETURN(const Compression compression, CompressionOf(path));
  if (compression == Compression::kGzip) file.decoder_ = std::make_unique<Gzip>();
  if (compression == Compression::kZstandard) file.decoder_ = std::make_unique<Zstandard>();
  return file;
}

absl::StatusOr<size_t> InputFile::Read(char* data, size_t capacity) {
  return decoder_ != nullptr ? decoder_->Read(*source_, data, capacity)
                             : source_->Read(data, capacity);
}

int64_t InputFile::stored_bytes_read() const { return source_->bytes_taken(); }

absl::StatusOr<std::string> ReadWholeInputFile(const std::string& path, int64_t max_bytes) {
  PLAIT_ASSIGN_OR_RETURN(InputFile file, InputFile::Open(path));
  std::string content;
  char block[1 << 16];
  while (true) {
    PLAIT_ASSIGN_OR_RETURN(const size_t got, file.Read(block, sizeof(block)));
    if (got == 0) return content;
    content.append(block, got);
    if (static_cast<int64_t>(content.size()) > max_bytes) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, ": longer than the ", max_bytes, " bytes allowed"));
    }
  }
}

}  // namespace plait
