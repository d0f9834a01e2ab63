#include "data/compressed_file.h"

#include "base/durable_file.h"
#include "data/line_reader.h"
#include "tests/data/sample_text.h"
#include "tests/support/compress.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temporary_folder.h"

namespace plait {
namespace {

using ::testing::HasSubstr;

constexpr int64_t kEnough = int64_t{1} << 30;

class CompressedFileTest : public ::testing::Test {
 protected:
  std::string Put(const std::string& content) {
    const std::string path = folder_.File("file");
    PLAIT_CHECK(WriteFileDurably(path, content).ok());
    return path;
  }

  TemporaryFolder folder_;
  // Longer than every buffer on the way.
  const std::string text_ = SampleText(7, 120'000);
};

TEST_F(CompressedFileTest, ContentTellsTheKind) {
  EXPECT_EQ(*InputFile::CompressionOf(Put("")), Compression::kNone);
  EXPECT_EQ(*InputFile::CompressionOf(Put("\x1f")), Compression::kNone);
  EXPECT_EQ(*InputFile::CompressionOf(Put("text")), Compression::kNone);
  EXPECT_EQ(*InputFile::CompressionOf(Put(Gzip("text"))), Compression::kGzip);
  EXPECT_EQ(*InputFile::CompressionOf(Put(Zstandard("text"))), Compression::kZstandard);
  EXPECT_THAT(InputFile::CompressionOf(folder_.File("none")),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("none")));
}

TEST_F(CompressedFileTest, UnpacksToTheText) {
  EXPECT_GT(text_.size(), 1u << 19);
  for (const std::string& stored : {text_, Gzip(text_), Zstandard(text_)}) {
    const std::string path = Put(stored);
    ASSERT_OK_AND_ASSIGN(const std::string whole, ReadWholeInputFile(path, kEnough));
    EXPECT_EQ(whole, text_);
    // In small pieces, counting what was taken of the file.
    ASSERT_OK_AND_ASSIGN(InputFile file, InputFile::Open(path));
    std::string pieces;
    char piece[1000];
    int64_t stored_before = 0;
    while (true) {
      ASSERT_OK_AND_ASSIGN(const size_t got, file.Read(piece, sizeof(piece)));
      if (got == 0) break;
      pieces.append(piece, got);
      EXPECT_GE(file.stored_bytes_read(), stored_before);
      stored_before = file.stored_bytes_read();
    }
    EXPECT_EQ(pieces, text_);
    EXPECT_EQ(file.stored_bytes_read(), static_cast<int64_t>(stored.size()));
  }
  EXPECT_THAT(ReadWholeInputFile(Put(Gzip(text_)), 1000),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("longer than the 1000")));
}

TEST_F(CompressedFileTest, StreamsInARowAreOne) {
  for (const std::string& stored :
       {Gzip("one, ") + Gzip("") + Gzip("two"),
        Zstandard("one, ") + Zstandard("") + Zstandard("two"),
        // A skippable frame of 3 bytes comes first.
        std::string("\x50\x2a\x4d\x18\x03\0\0\0abc", 11) + Zstandard("one, two")}) {
    ASSERT_OK_AND_ASSIGN(const std::string whole, ReadWholeInputFile(Put(stored), kEnough));
    EXPECT_EQ(whole, "one, two");
  }
}

TEST_F(CompressedFileTest, EveryCutIsFound) {
  const std::string text = SampleText(3, 40);
  for (const std::string& stored : {Gzip(text), Zstandard(text)}) {
    for (size_t length = 4; length < stored.size(); ++length) {
      EXPECT_THAT(ReadWholeInputFile(Put(stored.substr(0, length)), kEnough),
                  StatusIs(absl::StatusCode::kDataLoss, HasSubstr("file: damaged")))
          << length;
    }
    // In the second stream, too.
    EXPECT_THAT(ReadWholeInputFile(Put(stored + stored.substr(0, stored.size() - 1)), kEnough),
                StatusIs(absl::StatusCode::kDataLoss, HasSubstr("cut short")));
    EXPECT_THAT(ReadWholeInputFile(Put(stored + "rubbish"), kEnough),
                StatusIs(absl::StatusCode::kDataLoss, HasSubstr("file: damaged")));
  }
}

TEST_F(CompressedFileTest, FlippedBitsGiveAnErrorOrTheSameText) {
  const std::string text = SampleText(3, 40);
  for (const std::string& stored : {Gzip(text), Zstandard(text)}) {
    int errors = 0;
    for (size_t at = 4; at < stored.size(); ++at) {
      std::string damaged = stored;
      damaged[at] = static_cast<char>(damaged[at] ^ (1 << (at % 8)));
      const absl::StatusOr<std::string> read = ReadWholeInputFile(Put(damaged), kEnough);
      // Some bits of a header (a time, a flag) mean nothing for the text.
      if (read.ok()) {
        EXPECT_EQ(*read, text) << at;
      } else {
        EXPECT_EQ(read.status().code(), absl::StatusCode::kDataLoss) << at;
      }
      errors += read.ok() ? 0 : 1;
    }
    EXPECT_GT(errors, static_cast<int>(stored.size()) - 16);
  }
}

TEST_F(CompressedFileTest, LinesAreCutAtNewlines) {
  for (const std::string& end : {std::string(), std::string("\n")}) {
    const std::string lines = "a\n\n" + std::string(600'000, 'b') + "\nlast" + end;
    for (const std::string& stored : {lines, Gzip(lines), Zstandard(lines)}) {
      ASSERT_OK_AND_ASSIGN(LineReader reader, LineReader::Open(Put(stored)));
      std::vector<size_t> lengths;
      while (true) {
        ASSERT_OK_AND_ASSIGN(const auto line, reader.Next(1'000'000));
        if (!line.has_value()) break;
        lengths.push_back(line->size());
      }
      EXPECT_EQ(lengths, (std::vector<size_t>{1, 0, 600'000, 4}));
      EXPECT_EQ(reader.offset(), static_cast<int64_t>(lines.size()));
    }
    ASSERT_OK_AND_ASSIGN(LineReader middle, LineReader::Open(Put(lines), 2));
    EXPECT_EQ(**middle.Next(10), "");
    EXPECT_THAT(middle.Next(10), StatusIs(absl::StatusCode::kInvalidArgument,
                                          HasSubstr("file: the line at byte 3 is longer than 10")));
  }
}

}  // namespace
}  // namespace plait
