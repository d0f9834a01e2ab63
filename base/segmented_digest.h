// The digest of a large file by segments: XXH3-128 of the digests, 16 bytes each, of its segments
// of one length, the last one shorter. It is summed by several threads, and mostly already while
// the file is being written; the digest of a whole file at once can be neither.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "base/digest.h"

namespace plait {

inline constexpr int64_t kDigestSegmentBytes = 1 << 20;

// Of a file as it is. Errors as DigestOfFile's.
absl::StatusOr<std::string> SegmentedDigestOfFile(const std::string& path, int64_t segment_bytes);

// Of a file that is being written.
class SegmentedDigest {
 public:
  explicit SegmentedDigest(int64_t segment_bytes) : segment_bytes_(segment_bytes) {}

  // What has been written at `offset`. Segments whose bytes all come here in ascending order, right
  // after each other, need not be read again.
  void Add(int64_t offset, const void* data, int64_t bytes);
  // Once everything is written: reads the other segments of the file. Errors as DigestOfFile's;
  // DataLoss where the file is shorter than what was added.
  absl::StatusOr<std::string> Finish(const std::string& path);

 private:
  void AddToSegment(int64_t offset, const char* data, int64_t bytes);

  int64_t segment_bytes_;
  std::map<int64_t, DigestBytes> of_segment_;  // of those seen whole
  std::unique_ptr<DigestStream> open_;         // of the one that goes on at next_
  int64_t next_ = -1;
  int64_t end_ = 0;  // of everything added
};

}  // namespace plait
