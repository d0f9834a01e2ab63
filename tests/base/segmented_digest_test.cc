#include "base/segmented_digest.h"

#include <algorithm>
#include <random>

#include "absl/strings/escaping.h"
#include "base/durable_file.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temporary_folder.h"

namespace plait {
namespace {

using ::testing::HasSubstr;

constexpr int64_t kSegment = 1000;

std::string Bytes(int64_t count, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::string bytes(static_cast<size_t>(count), '\0');
  for (char& byte : bytes) byte = static_cast<char>(random());
  return bytes;
}

// As it is defined, of bytes in memory.
std::string Expected(const std::string& bytes, int64_t segment) {
  std::string digests;
  for (size_t begin = 0; begin < bytes.size(); begin += static_cast<size_t>(segment)) {
    const std::string part = bytes.substr(begin, static_cast<size_t>(segment));
    digests += absl::HexStringToBytes(DigestOf(part.data(), part.size()));
  }
  return DigestOf(digests.data(), digests.size());
}

TEST(SegmentedDigestTest, OfAFileIsThatOfItsSegmentsDigests) {
  TemporaryFolder folder;
  for (const int64_t size : {0, 1, 999, 1000, 1001, 5000, 123457}) {
    const std::string bytes = Bytes(size, 1);
    ASSERT_OK(WriteFileDurably(folder.File("a"), bytes));
    EXPECT_EQ(*SegmentedDigestOfFile(folder.File("a"), kSegment), Expected(bytes, kSegment))
        << size;
  }
}

TEST(SegmentedDigestTest, ManyThreadsSumALargeFile) {
  TemporaryFolder folder;
  const std::string bytes = Bytes((50 << 20) + 17, 2);
  ASSERT_OK(WriteFileDurably(folder.File("a"), bytes));
  EXPECT_EQ(*SegmentedDigestOfFile(folder.File("a"), kDigestSegmentBytes),
            Expected(bytes, kDigestSegmentBytes));
}

// Pieces of any length, here and there, some twice, some never told of.
TEST(SegmentedDigestTest, OfAFileThatIsWrittenIsThatOfTheFile) {
  TemporaryFolder folder;
  const std::string path = folder.File("a");
  for (uint64_t round = 0; round < 50; ++round) {
    std::mt19937_64 random(round);
    std::string bytes = Bytes(20'000, round);
    SegmentedDigest digest(kSegment);
    int64_t offset = 0;
    for (uint64_t i = 0; i < 60; ++i) {
      if (random() % 4 == 0) offset = static_cast<int64_t>(random() % 20'000);
      const int64_t count =
          std::min<int64_t>(static_cast<int64_t>(random() % 3'000), 20'000 - offset);
      const std::string piece = Bytes(count, 1000 * round + i);
      bytes.replace(static_cast<size_t>(offset), static_cast<size_t>(count), piece);
      digest.Add(offset, piece.data(), count);
      offset += count;
    }
    ASSERT_OK(WriteFileDurably(path, bytes));
    EXPECT_EQ(*digest.Finish(path), Expected(bytes, kSegment)) << round;
  }
}

// A device that keeps other bytes than it was given does not change the digest: whoever opens the
// file finds out.
TEST(SegmentedDigestTest, WhatWasSeenWholeIsNotReadAgain) {
  TemporaryFolder folder;
  const std::string bytes = Bytes(10 * kSegment, 3);
  SegmentedDigest digest(kSegment);
  digest.Add(500, bytes.data() + 500, 9 * kSegment);  // segments 1 to 8 whole
  std::string damaged = bytes;
  damaged[1000] ^= 1;
  damaged[8999] ^= 1;
  ASSERT_OK(WriteFileDurably(folder.File("a"), damaged));
  EXPECT_EQ(*digest.Finish(folder.File("a")), Expected(bytes, kSegment));
  std::string changed = bytes;
  changed[9700] ^= 1;  // of a segment that was not
  ASSERT_OK(WriteFileDurably(folder.File("a"), changed));
  EXPECT_EQ(*digest.Finish(folder.File("a")), Expected(changed, kSegment));
}

TEST(SegmentedDigestTest, AFileThatIsNotThereOrTooShortIsNamed) {
  TemporaryFolder folder;
  EXPECT_THAT(SegmentedDigestOfFile(folder.File("a"), kSegment),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("/a: cannot be opened")));
  ASSERT_OK(WriteFileDurably(folder.File("a"), "content"));
  SegmentedDigest digest(kSegment);
  digest.Add(0, "content, and more", 17);
  EXPECT_THAT(digest.Finish(folder.File("a")),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("wrote 17 bytes, the file has 7")));
}

}  // namespace
}  // namespace plait
