#include "checkpoint/safetensors_header.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "tests/support/status_matchers.h"

namespace plait {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

// A whole file around this JSON text.
std::string File(const std::string& json, int64_t data_bytes) {
  std::string file;
  for (int i = 0; i < 8; ++i) file.push_back(static_cast<char>(json.size() >> (8 * i)));
  return file + json + std::string(static_cast<size_t>(data_bytes), 'x');
}

absl::StatusOr<SafetensorsHeader> Parse(const std::string& json, int64_t data_bytes) {
  return ParseSafetensorsHeader(File(json, data_bytes), "f.safetensors");
}

// {"a": {...}} with these fields.
std::string Tensor(const std::string& fields) { return absl::StrCat("{\"a\":{", fields, "}}"); }

void ExpectRefused(const std::string& json, int64_t data_bytes, const std::string& message) {
  EXPECT_THAT(Parse(json, data_bytes),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("f.safetensors: " + message)))
      << json;
  EXPECT_THAT(Parse(json, data_bytes), StatusIs(absl::StatusCode::kDataLoss, Not(HasSubstr("\n"))));
}

TEST(SafetensorsHeaderTest, ReadsTensorsByPlaceAndMetadata) {
  ASSERT_OK_AND_ASSIGN(
      const SafetensorsHeader header,
      Parse(R"({"__metadata__":{"format":"pt","b":""},)"
            R"("late":{"dtype":"BF16","shape":[2,3],"data_offsets":[4,16]},)"
            R"("scalar":{"shape":[],"data_offsets":[0,4],"dtype":"F32"},)"
            R"("nothing":{"dtype":"F64","shape":[0,7],"data_offsets":[4,4],"more":[1]}}   )",
            12 + 4));
  EXPECT_EQ(header.metadata, (std::map<std::string, std::string>{{"format", "pt"}, {"b", ""}}));
  ASSERT_EQ(header.tensors.size(), 3u);
  EXPECT_EQ(header.tensors[0].name, "scalar");
  EXPECT_TRUE(header.tensors[0].shape.empty());
  EXPECT_EQ(header.tensors[1].name, "nothing");
  EXPECT_EQ(header.tensors[2].name, "late");
  EXPECT_EQ(header.tensors[2].dtype, SafetensorsDType::kBf16);
  EXPECT_EQ(header.tensors[2].shape, (std::vector<int64_t>{2, 3}));
  EXPECT_EQ(header.tensors[2].begin, 4);
  EXPECT_EQ(header.tensors[2].end, 16);
}

TEST(SafetensorsHeaderTest, ReadsEveryElementTypeOfTheFormat) {
  for (const auto& [name, bytes] : std::map<std::string, int64_t>{
           {"BOOL", 4},        {"F4", 2},      {"F6_E2M3", 3}, {"F6_E3M2", 3}, {"U8", 4},
           {"I8", 4},          {"F8_E5M2", 4}, {"F8_E4M3", 4}, {"F8_E8M0", 4}, {"F8_E4M3FNUZ", 4},
           {"F8_E5M2FNUZ", 4}, {"I16", 8},     {"U16", 8},     {"F16", 8},     {"BF16", 8},
           {"I32", 16},        {"U32", 16},    {"F32", 16},    {"C64", 32},    {"F64", 32},
           {"I64", 32},        {"U64", 32}}) {
    const std::string json = Tensor(
        absl::StrCat("\"dtype\":\"", name, "\",\"shape\":[4],\"data_offsets\":[0,", bytes, "]"));
    ASSERT_OK_AND_ASSIGN(const SafetensorsHeader header, Parse(json, bytes));
    EXPECT_EQ(Name(header.tensors[0].dtype), name);
  }
}

TEST(SafetensorsHeaderTest, RefusesWrongLengths) {
  EXPECT_THAT(ParseSafetensorsHeader("1234567", "f.safetensors"),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("at least 8 bytes, found 7")));
  EXPECT_THAT(
      ParseSafetensorsHeader(File("{}", 0).substr(0, 9), "f.safetensors"),
      StatusIs(absl::StatusCode::kDataLoss, HasSubstr("its header has 2 bytes, the file 9")));
  std::string file = File("{}", 0);
  file[3] = 6;  // 6 x 2^24 + 2
  EXPECT_THAT(ParseSafetensorsHeader(file, "f.safetensors"),
              StatusIs(absl::StatusCode::kDataLoss,
                       HasSubstr("its header has 100663298 bytes, more than the 100000000")));
  EXPECT_THAT(ParseSafetensorsHeader(std::string(8, '\xff'), "f.safetensors"),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("18446744073709551615 bytes")));
}

TEST(SafetensorsHeaderTest, RefusesWhatIsNotOneObject) {
  ExpectRefused("", 0, "its header does not begin with '{'");
  ExpectRefused(" {}", 0, "its header does not begin with '{'");
  ExpectRefused("[]", 0, "its header does not begin with '{'");
  ExpectRefused("{}\n", 0, "its header does not end with '}' and spaces");
  ExpectRefused("{}{}", 0, "its header is not JSON");
  ExpectRefused("{\"a\":}", 0, "its header is not JSON");
  ExpectRefused("{\"\xff\":{}}", 0, "its header is not JSON");
  ExpectRefused(R"({"\ud800":{}})", 0, "its header is not JSON");
  std::string deep = "{\"a\":";
  for (int i = 0; i < 100000; ++i) deep += '[';
  ExpectRefused(deep + "}", 0, "its header is not JSON");
}

TEST(SafetensorsHeaderTest, RefusesNamesThatOccurTwice) {
  const std::string tensor = R"({"dtype":"U8","shape":[1],"data_offsets":[0,1]})";
  ExpectRefused(absl::StrCat("{\"a\":", tensor, ",\"a\":", tensor, "}"), 1,
                "a: the name occurs twice");
  ExpectRefused(absl::StrCat("{\"a\":", tensor, ",\"\\u0061\":", tensor, "}"), 1,
                "a: the name occurs twice");
  ExpectRefused(R"({"__metadata__":{},"__metadata__":{}})", 0,
                "__metadata__: the name occurs twice");
  ExpectRefused(R"({"__metadata__":{"k":"1","k":"2"}})", 0, "__metadata__: k: occurs twice");
  ExpectRefused(Tensor(R"("dtype":"U8","dtype":"U8","shape":[1],"data_offsets":[0,1])"), 1,
                "a: dtype: occurs twice");
}

TEST(SafetensorsHeaderTest, RefusesFieldsThatAreMissingOrOfAnotherKind) {
  ExpectRefused(R"({"a":[]})", 0, "a: expected an object");
  ExpectRefused(Tensor(R"("shape":[1],"data_offsets":[0,1])"), 1, "a: has no dtype");
  ExpectRefused(Tensor(R"("dtype":"U8","data_offsets":[0,1])"), 1, "a: has no shape");
  ExpectRefused(Tensor(R"("dtype":"U8","shape":[1])"), 1, "a: has no data_offsets");
  ExpectRefused(Tensor(R"("dtype":1,"shape":[1],"data_offsets":[0,1])"), 1,
                "a: dtype: expected a text");
  ExpectRefused(Tensor(R"("dtype":"F33\n","shape":[1],"data_offsets":[0,1])"), 1,
                "a: dtype: unknown: F33\\n");
  ExpectRefused(Tensor(R"("dtype":"U8","shape":1,"data_offsets":[0,1])"), 1,
                "a: shape: expected an array");
  for (const char* size : {"-1", "1.0", "1e0", "\"1\"", "null", "[1]", "18446744073709551615"}) {
    ExpectRefused(
        Tensor(absl::StrCat("\"dtype\":\"U8\",\"shape\":[", size, "],\"data_offsets\":[0,1]")), 1,
        "a: shape: expected an integer");
  }
  ExpectRefused(Tensor(R"("dtype":"U8","shape":[1],"data_offsets":[0,1,1])"), 1,
                "a: data_offsets: expected 2 numbers, found 3");
  ExpectRefused(R"({"__metadata__":[]})", 0, "__metadata__: expected an object");
  ExpectRefused(R"({"__metadata__":{"k":1}})", 0, "__metadata__: k: expected a text");
}

TEST(SafetensorsHeaderTest, RefusesOffsetsThatAreNotTheShapes) {
  ExpectRefused(Tensor(R"("dtype":"F32","shape":[2],"data_offsets":[0,4])"), 4,
                "a: data_offsets: [0, 4] are not the 8 bytes of its shape and dtype");
  ExpectRefused(Tensor(R"("dtype":"U8","shape":[0],"data_offsets":[1,0])"), 1,
                "a: data_offsets: [1, 0]");
  ExpectRefused(Tensor(R"("dtype":"F4","shape":[3],"data_offsets":[0,2])"), 2,
                "a: shape: 12 bits of F4 do not end at a byte");
}

TEST(SafetensorsHeaderTest, RefusesProductsThatOverflow) {
  for (const char* shape : {"4294967296,4294967296", "9223372036854775807,2", "1152921504606846976",
                            "4294967296,4294967296,0"}) {
    ExpectRefused(
        Tensor(absl::StrCat("\"dtype\":\"F32\",\"shape\":[", shape, "],\"data_offsets\":[0,0]")), 0,
        "a: shape: its elements have more than 2^63 - 1 bits");
  }
}

TEST(SafetensorsHeaderTest, RefusesHolesOverlapsAndBytesOutside) {
  const auto two = [](int64_t begin) {
    return absl::StrCat(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},)",
                        R"("b":{"dtype":"U8","shape":[4],"data_offsets":[)", begin, ",", begin + 4,
                        "]}}");
  };
  EXPECT_OK(Parse(two(4), 8));
  ExpectRefused(two(5), 9, "b: begins at byte 5, the tensor before it ends at 4");
  ExpectRefused(two(3), 8, "b: begins at byte 3, inside the tensor before it, which ends at 4");
  ExpectRefused(two(0), 8, "b: begins at byte 0, inside the tensor before it");
  ExpectRefused(two(4), 7, "its tensors have 8 bytes, the file has 7 after the header: cut short");
  ExpectRefused(two(4), 9, "its tensors have 8 bytes, the file has 9 after the header");
  ExpectRefused(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[1,5]}})", 5,
                "a: begins at byte 1, the tensor before it ends at 0");
  ExpectRefused(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},)"
                R"("z":{"dtype":"U8","shape":[0],"data_offsets":[2,2]}})",
                4, "z: begins at byte 2, inside");
}

TEST(SafetensorsHeaderTest, WritesWhatTheFormatsOwnWriterDoes) {
  const SafetensorsHeader header = MakeSafetensorsHeader({{"h", SafetensorsDType::kI8, {3}},
                                                          {"a", SafetensorsDType::kF16, {3}},
                                                          {"b", SafetensorsDType::kF32, {2, 2}}},
                                                         {{"format", "pt"}});
  // As safetensors 0.8.0 writes the same three tensors.
  const std::string expected =
      std::string("\xc8\0\0\0\0\0\0\0", 8) +
      R"({"__metadata__":{"format":"pt"},"b":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},)"
      R"("a":{"dtype":"F16","shape":[3],"data_offsets":[16,22]},)"
      R"("h":{"dtype":"I8","shape":[3],"data_offsets":[22,25]}}   )";
  EXPECT_EQ(SafetensorsHeaderBytes(header), expected);
  EXPECT_EQ(header.data_offset, static_cast<int64_t>(expected.size()));
  EXPECT_OK(ParseSafetensorsHeader(expected + std::string(25, 'x'), "f"));
}

}  // namespace
}  // namespace plait
