#include "data/corpus_reader.h"

#include <filesystem>

#include "base/durable_file.h"
#include "base/status_macros.h"
#include "tests/support/compress.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temporary_folder.h"

namespace plait {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class CorpusReaderTest : public ::testing::Test {
 protected:
  std::string Put(const std::string& name, const std::string& content) {
    const std::string path = folder_.File(name);
    std::filesystem::create_directories(std::filesystem::path(path).parent_path());
    PLAIT_CHECK(WriteFileDurably(path, content).ok());
    return path;
  }

  // "name=text" of every document, or the error.
  absl::StatusOr<std::vector<std::string>> ReadAll(const std::vector<std::string>& inputs) {
    PLAIT_ASSIGN_OR_RETURN(CorpusReader reader, CorpusReader::Open(inputs, "text"));
    std::vector<std::string> documents;
    PLAIT_RETURN_IF_ERROR(Append(reader, &documents));
    EXPECT_EQ(reader.bytes_read(), reader.total_bytes());
    return documents;
  }

  // The same by one reader for each of `ranges` neighbouring ranges, whose ends `shift` moves.
  absl::StatusOr<std::vector<std::string>> ReadInRanges(const std::vector<std::string>& inputs,
                                                        int ranges, int64_t shift) {
    PLAIT_ASSIGN_OR_RETURN(CorpusReader reader, CorpusReader::Open(inputs, "text"));
    std::vector<std::string> documents;
    const int64_t total = reader.total_bytes();
    int64_t begin = 0, lines_before = 0, bytes = 0;
    for (int range = 1; range <= ranges; ++range) {
      const int64_t end = range == ranges ? total : std::min(total, total * range / ranges + shift);
      reader.SetRange(begin, end, lines_before);
      PLAIT_RETURN_IF_ERROR(Append(reader, &documents));
      bytes += reader.bytes_read();
      // The next range may begin in a file that this one did not begin.
      PLAIT_ASSIGN_OR_RETURN(const int64_t newlines, reader.CountNewlines(begin, end));
      const bool same_file = reader.DividedFile(begin) == reader.DividedFile(end);
      lines_before = newlines + (same_file ? lines_before : 0);
      begin = end;
    }
    EXPECT_EQ(bytes, total);
    return documents;
  }

  static absl::Status Append(CorpusReader& reader, std::vector<std::string>* documents) {
    while (true) {
      PLAIT_ASSIGN_OR_RETURN(const std::optional<Document> document, reader.Next());
      if (!document.has_value()) return absl::OkStatus();
      documents->push_back(document->name + "=" + document->text);
    }
  }

  TemporaryFolder folder_;
};

TEST_F(CorpusReaderTest, ReadsFoldersSortedAndFilesInTheOrderGiven) {
  Put("c/b/2.txt", "two");
  Put("c/b/10.txt", "ten");
  Put("c/a.jsonl",
      "{\"text\": \"j1\", \"id\": [1, {\"x\": null}]}\n\n{\"id\": 3, \"text\": \"j\\u00e9\\n\"}\n");
  Put("c/.git/config", "hidden");
  Put("c/.x", "hidden");
  const std::string single = Put("z.md", "single");
  ASSERT_OK_AND_ASSIGN(const auto documents, ReadAll({single, folder_.File("c")}));
  EXPECT_THAT(documents, ElementsAre("z.md=single", "a.jsonl:1=j1", "a.jsonl:3=j\xc3\xa9\n",
                                     "b/10.txt=ten", "b/2.txt=two"));
}

TEST_F(CorpusReaderTest, BeginsAgain) {
  const std::string path = Put("a.jsonl", "{\"text\": \"one\"}\n{\"text\": \"two\"}\n");
  ASSERT_OK_AND_ASSIGN(CorpusReader reader, CorpusReader::Open({path}, "text"));
  EXPECT_EQ((*reader.Next())->text, "one");
  reader.Restart();
  EXPECT_EQ((*reader.Next())->text, "one");
  EXPECT_EQ((*reader.Next())->text, "two");
  EXPECT_FALSE(reader.Next()->has_value());
}

TEST_F(CorpusReaderTest, RangesTogetherAreTheCorpus) {
  std::string lines;
  for (int line = 0; line < 9; ++line) {
    lines += "{\"text\": \"" + std::string(static_cast<size_t>(line % 4) * 3 + 1, 'x') + "\"}\n";
    if (line % 3 == 1) lines += "\n \n";
  }
  Put("c/a.jsonl", lines);
  Put("c/b.txt", "text");
  Put("c/c.jsonl.gz", Gzip("{\"text\": \"packed\"}\n{\"text\": \"twice\"}\n"));
  Put("c/d.jsonl", "\n\n{\"text\": \"last, no newline\"}");
  const std::vector<std::string> inputs = {folder_.File("c")};
  ASSERT_OK_AND_ASSIGN(const auto whole, ReadAll(inputs));
  EXPECT_EQ(whole.size(), 13u);
  // Ends on every byte; more ranges than documents.
  for (int ranges : {2, 3, 5, 40, 400}) {
    for (int64_t shift = 0; shift < (ranges < 4 ? 160 : 8); ++shift) {
      ASSERT_OK_AND_ASSIGN(const auto parts, ReadInRanges(inputs, ranges, shift));
      EXPECT_EQ(parts, whole) << ranges << " ranges, ends moved by " << shift;
    }
  }
  // Blank lines in another range's part do not make a file empty, nor do documents there fill it.
  const std::string path = Put("blank.jsonl", std::string(50, '\n'));
  EXPECT_THAT(ReadInRanges({path}, 3, 0),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("has no documents")));
}

TEST_F(CorpusReaderTest, CompressedFilesReadAsThePlainOnes) {
  const std::string lines = "{\"text\": \"one\"}\n\n{\"text\": \"two\"}";
  Put("plain/a.jsonl", lines);
  Put("plain/a/b.txt", "three\n");
  Put("plain/c.md", "four");
  Put("packed/a.jsonl.zst", Zstandard(lines));
  Put("packed/a/b.txt.gz", Gzip("three\n"));
  Put("packed/c.md", Gzip("four"));  // known by its content
  ASSERT_OK_AND_ASSIGN(const auto plain, ReadAll({folder_.File("plain")}));
  ASSERT_OK_AND_ASSIGN(const auto packed, ReadAll({folder_.File("packed")}));
  EXPECT_EQ(plain, packed);
  EXPECT_THAT(packed,
              ElementsAre("a.jsonl:1=one", "a.jsonl:3=two", "a/b.txt=three\n", "c.md=four"));
}

// Python's json.dumps writes such lines.
TEST_F(CorpusReaderTest, NumbersBesideTheTextMayBeAnything) {
  const std::string path = Put("a.jsonl",
                               "{\"id\": 123456789012345678901234567890, \"text\": \"one\"}\n"
                               "{\"text\": \"NaN\", \"score\": NaN, \"best\": [-Infinity]}\n"
                               "{\"text\": \"two\", \"id\": 18446744073709551616}\n");
  ASSERT_OK_AND_ASSIGN(const auto read, ReadAll({path}));
  EXPECT_THAT(read, ElementsAre("a.jsonl:1=one", "a.jsonl:2=NaN", "a.jsonl:3=two"));
}

TEST_F(CorpusReaderTest, BadInputIsNamedWithItsPlace) {
  const auto expect = [this](const std::string& path, absl::StatusCode code,
                             const std::string& text) {
    EXPECT_THAT(ReadAll({path}), StatusIs(code, HasSubstr(text)));
  };
  const auto kInvalid = absl::StatusCode::kInvalidArgument;
  expect(folder_.File("none"), absl::StatusCode::kNotFound, "none: no such file or folder");
  expect(Put("empty.txt", ""), kInvalid, "empty.txt: the file is empty");
  expect(Put("bad.txt", "gr\xc3\xbc\xc3"), kInvalid, "bad.txt: invalid UTF-8 at byte 4");
  // The offset is the file's, not the line's.
  expect(Put("bad.jsonl", "{\"text\": \"a\"}\n{\"text\": \"\xff\"}\n"), kInvalid,
         "bad.jsonl: invalid UTF-8 at byte 24");
  expect(Put("broken.jsonl", "{\"text\": \"a\"}\n{\"text\": \n"), kInvalid,
         "broken.jsonl:2: not a JSON object");
  expect(Put("list.jsonl", "[1]\n"), kInvalid, "list.jsonl:1: not a JSON object");
  expect(Put("field.jsonl", "{\"content\": \"a\"}\n"), kInvalid,
         "field.jsonl:1: no string under \"text\"; say which field is the text with --text-field");
  expect(Put("number.jsonl", "{\"text\": 5}\n"), kInvalid,
         "number.jsonl:1: no string under \"text\"; say which field is the text with --text-field");
  expect(Put("nothing.jsonl", "{\"text\": \"\"}\n"), kInvalid,
         "nothing.jsonl:1: the string under \"text\" is empty");
  expect(Put("blank.jsonl", "\n\n"), kInvalid, "blank.jsonl: has no documents");
  expect(Put("deep.jsonl", "{\"text\": " + std::string(100'000, '[') + "\n"), kInvalid,
         "deep.jsonl:1");
  const std::string packed = Gzip("{\"text\": \"long enough to be cut\"}\n");
  expect(Put("cut.jsonl.gz", packed.substr(0, packed.size() - 9)), absl::StatusCode::kDataLoss,
         "cut.jsonl.gz: damaged gzip data");
  expect(Put("named.txt.gz", "not gzip"), absl::StatusCode::kDataLoss,
         "named.txt.gz: is not what its ending .gz says");
  expect(Put("other.txt.zst", packed), absl::StatusCode::kDataLoss,
         "other.txt.zst: is not what its ending .zst says");
  expect(Put("nothing.txt.gz", Gzip("")), kInvalid, "nothing.txt.gz: the file is empty");
  expect(Put("bad8.txt.gz", Gzip("ab\xff")), kInvalid, "bad8.txt.gz: invalid UTF-8 at byte 2");
  std::filesystem::create_directories(folder_.File("hollow"));
  expect(folder_.File("hollow"), kInvalid, "hollow: the folder has no files");
  std::filesystem::create_directories(folder_.File("circle"));
  std::filesystem::create_symlink("itself.txt", folder_.File("circle/itself.txt"));
  expect(folder_.File("circle"), absl::StatusCode::kFailedPrecondition,
         "circle/itself.txt: cannot be read: Too many levels of symbolic links");
  EXPECT_THAT(ReadAll({}), StatusIs(kInvalid, HasSubstr("no input")));
}

}  // namespace
}  // namespace plait
