#include "checkpoint/safetensors_folder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "base/durable_file.h"
#include "checkpoint/safetensors_writer.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temporary_folder.h"

namespace plait {
namespace {

using ::testing::HasSubstr;

class SafetensorsFolderTest : public ::testing::Test {
 protected:
  // A file of one u8 tensor for every name; its bytes are the name's first letter.
  void Write(const std::string& file, const std::vector<std::string>& names) {
    std::vector<SafetensorsTensor> tensors;
    for (const std::string& name : names) tensors.push_back({name, SafetensorsDType::kU8, {4}});
    const SafetensorsHeader header = MakeSafetensorsHeader(tensors, {{"format", "pt"}});
    ASSERT_OK(SafetensorsWriter::Create(folder_.File(file), header));
    ASSERT_OK_AND_ASSIGN(SafetensorsWriter writer,
                         SafetensorsWriter::Open(folder_.File(file), header));
    for (const SafetensorsTensor& tensor : header.tensors) {
      const std::string bytes(4, tensor.name[0]);
      ASSERT_OK(writer.Write(tensor.begin, bytes.data(), 2));
      ASSERT_OK(writer.Write(tensor.begin + 2, bytes.data() + 2, 2));
    }
    ASSERT_OK(writer.Finish());
  }
  void WriteIndex(const std::map<std::string, std::string>& weight_map, int64_t total_bytes) {
    WriteText(SafetensorsIndexText({weight_map, total_bytes}));
  }
  void WriteText(const std::string& index) {
    ASSERT_OK(WriteFileDurably(folder_.File(kSafetensorsIndexName), index));
  }
  void ExpectRefused(absl::StatusCode code, const std::string& message) {
    EXPECT_THAT(SafetensorsFolder::Open(folder_.path()).status(),
                StatusIs(code, HasSubstr(message)));
  }

  TemporaryFolder folder_;
  const std::string first_ = SafetensorsShardName(0, 2);
  const std::string second_ = SafetensorsShardName(1, 2);
};

TEST_F(SafetensorsFolderTest, ReadsASingleFile) {
  Write("model.safetensors", {"b", "a"});
  ASSERT_OK_AND_ASSIGN(const SafetensorsFolder folder, SafetensorsFolder::Open(folder_.path()));
  ASSERT_EQ(folder.tensors().size(), 2u);
  for (const auto& [file, tensor, file_name] : folder.tensors()) {
    EXPECT_EQ(std::string(file->Data(tensor->begin, 4), 4), std::string(4, tensor->name[0]));
    std::string read(4, '\0');
    ASSERT_OK(file->Read(tensor->begin, 4, read.data()));
    EXPECT_EQ(read, std::string(4, tensor->name[0]));
    EXPECT_EQ(file_name, "model.safetensors");
  }
}

TEST_F(SafetensorsFolderTest, AFileThatBecomesShorterIsAnError) {
  Write("model.safetensors", {"a"});
  ASSERT_OK_AND_ASSIGN(const SafetensorsFolder folder, SafetensorsFolder::Open(folder_.path()));
  const std::string path = folder_.File("model.safetensors");
  std::filesystem::resize_file(path, std::filesystem::file_size(path) - 1);
  char read[4];
  EXPECT_THAT(folder.tensors()[0].file->Read(0, 4, read),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr(path + ": has become shorter")));
}

TEST_F(SafetensorsFolderTest, ReadsShardsByTheIndex) {
  EXPECT_EQ(first_, "model-00001-of-00002.safetensors");
  Write(first_, {"b"});
  Write(second_, {"a", "c"});
  WriteIndex({{"a", second_}, {"b", first_}, {"c", second_}}, 12);
  ASSERT_OK_AND_ASSIGN(const SafetensorsFolder folder, SafetensorsFolder::Open(folder_.path()));
  ASSERT_EQ(folder.tensors().size(), 3u);
  EXPECT_EQ(folder.tensors()[0].tensor->name, "a");
  EXPECT_EQ(folder.tensors()[1].file_name, first_);
  // Some writers make a float of the size, or leave it out.
  WriteText(absl::StrCat(R"({"metadata":{"total_size":12.0},"weight_map":{"a":")", second_,
                         R"(","b":")", first_, R"(","c":")", second_, "\"}}"));
  EXPECT_OK(SafetensorsFolder::Open(folder_.path()));
}

TEST_F(SafetensorsFolderTest, RefusesAFolderWithoutSafetensors) {
  ExpectRefused(absl::StatusCode::kNotFound, "has neither model.safetensors nor");
  Write(first_, {"a"});
  ExpectRefused(absl::StatusCode::kNotFound, "has model-00001-of-00002.safetensors but no");
}

TEST_F(SafetensorsFolderTest, RefusesAnIndexThatDoesNotAgreeWithTheFiles) {
  Write(first_, {"a", "b"});
  WriteIndex({{"a", first_}, {"b", first_}, {"c", second_}}, 12);
  ExpectRefused(absl::StatusCode::kNotFound, "model-00002-of-00002.safetensors: cannot be opened");
  WriteIndex({{"a", first_}, {"b", first_}, {"c", first_}}, 12);
  ExpectRefused(absl::StatusCode::kDataLoss, "c: is not in model-00001-of-00002.safetensors");
  WriteIndex({{"a", first_}}, 4);
  ExpectRefused(absl::StatusCode::kDataLoss, "does not name b, which is in model-00001-of-00002");
  WriteIndex({{"a", first_}, {"b", first_}}, 9);
  ExpectRefused(absl::StatusCode::kDataLoss, "total_size is 9, the tensors have 8 bytes");
  Write(second_, {"b"});
  WriteIndex({{"a", first_}, {"b", first_}}, 8);
  ExpectRefused(absl::StatusCode::kDataLoss, "model-00002-of-00002.safetensors: is not named in");
  WriteIndex({{"a", first_}, {"b", second_}}, 12);
  ExpectRefused(absl::StatusCode::kDataLoss,
                "b: expected in model-00002-of-00002.safetensors, "
                "found in model-00001-of-00002.safetensors");
}

TEST_F(SafetensorsFolderTest, RefusesATensorInTwoFiles) {
  Write(first_, {"a"});
  Write(second_, {"a", "b"});
  WriteIndex({{"a", first_}, {"b", second_}}, 12);
  ExpectRefused(absl::StatusCode::kDataLoss, "a: is in model-00001-of-00002.safetensors and in");
}

TEST_F(SafetensorsFolderTest, RefusesDamagedIndices) {
  Write(first_, {"a"});
  for (const auto& [text, message] : std::map<std::string, std::string>{
           {"[]", "not a JSON object"},
           {"{}", "has no weight_map"},
           {R"({"weight_map":{"a":"f","a":"f"}})", "weight_map: a: occurs twice"},
           {R"({"weight_map":{},"weight_map":{}})", "weight_map: occurs twice"},
           {R"({"weight_map":{"a":"../f"}})", "weight_map: a: '../f' is not the name of a file"},
           {R"({"weight_map":{"a":3}})", "weight_map: a: expected a file name"},
           {R"({"metadata":{"total_size":-1},"weight_map":{}})", "total_size: expected a number"},
       }) {
    WriteText(text);
    ExpectRefused(absl::StatusCode::kDataLoss, message);
  }
}

TEST_F(SafetensorsFolderTest, RefusesDamagedFiles) {
  Write("model.safetensors", {"a"});
  std::filesystem::resize_file(folder_.File("model.safetensors"), 70);
  ExpectRefused(absl::StatusCode::kDataLoss, "model.safetensors: ");
  std::filesystem::resize_file(folder_.File("model.safetensors"), 0);
  ExpectRefused(absl::StatusCode::kDataLoss, "expected at least 8 bytes, found 0");
}

}  // namespace
}  // namespace plait
