#include "data/corpus_reader.h"

#include <filesystem>

#include "base/durable_file.h"
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
    absl::StatusOr<CorpusReader> reader = CorpusReader::Open(inputs, "text");
    if (!reader.ok()) return reader.status();
    std::vector<std::string> documents;
    while (true) {
      absl::StatusOr<std::optional<Document>> document = reader->Next();
      if (!document.ok()) return document.status();
      if (!document->has_value()) break;
      documents.push_back((*document)->name + "=" + (*document)->text);
    }
    EXPECT_EQ(reader->bytes_read(), reader->total_bytes());
    return documents;
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
  std::filesystem::create_directories(folder_.File("hollow"));
  expect(folder_.File("hollow"), kInvalid, "hollow: the folder has no files");
  EXPECT_THAT(ReadAll({}), StatusIs(kInvalid, HasSubstr("no input")));
}

}  // namespace
}  // namespace plait
