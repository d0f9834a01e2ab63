// Mutated and generated headers and indices: whatever the bytes, the parser ends at once with a
// result that is sound or with a one-line error.
#include <gtest/gtest.h>

#include <random>
#include <string>

#include "absl/strings/str_cat.h"
#include "checkpoint/safetensors_folder.h"
#include "checkpoint/safetensors_header.h"
#include "tests/support/fuzzing.h"

namespace plait {
namespace {

class Generator {
 public:
  explicit Generator(uint64_t seed) : engine_(seed) {}

  int64_t Below(int64_t end) {
    return static_cast<int64_t>(engine_() % static_cast<uint64_t>(end));
  }
  template <size_t n>
  std::string Pick(const char* const (&choices)[n]) {
    return choices[Below(static_cast<int64_t>(n))];
  }

  std::string Number() {
    return Pick({"0", "1", "2", "4", "8", "12", "-1", "1.0", "1e3", "9223372036854775807",
                 "18446744073709551615", "4294967296", "null", "\"1\"", "[]", "-0"});
  }
  std::string Text() {
    return Pick({"\"a\"", "\"b\"", "\"F32\"", "\"BF16\"", "\"F4\"", "\"dtype\"", "\"shape\"",
                 "\"data_offsets\"", "\"__metadata__\"", "\"\\u0061\"", "\"\\ud800\"", "\"\"",
                 "\"\\u0000\"", "\"weight_map\"", "\"metadata\"", "\"total_size\"",
                 "\"model.safetensors\"", "\"../x\""});
  }
  std::string Value(int depth) {
    switch (Below(depth > 6 ? 2 : 5)) {
      case 0:
        return Number();
      case 1:
        return Text();
      case 2: {
        std::string list;
        for (int64_t i = Below(4); i > 0; --i) {
          absl::StrAppend(&list, list.empty() ? "" : ",", Value(depth + 1));
        }
        return absl::StrCat("[", list, "]");
      }
      default:
        return Object(depth + 1);
    }
  }
  std::string Object(int depth) {
    std::string object;
    for (int64_t i = Below(5); i > 0; --i) {
      absl::StrAppend(&object, object.empty() ? "" : ",", Text(), ":",
                      Below(2) == 0 ? TensorObject() : Value(depth));
    }
    return absl::StrCat("{", object, "}");
  }
  std::string TensorObject() {
    return absl::StrCat("{\"dtype\":", Below(8) == 0 ? Text() : "\"F32\"", ",\"shape\":[", Number(),
                        "],\"data_offsets\":[", Number(), ",", Number(), "]}");
  }

  // A file that the format's own writer could have made.
  std::string ValidFile() {
    std::vector<SafetensorsTensor> tensors;
    for (int64_t i = Below(5); i >= 0; --i) {
      SafetensorsTensor tensor{absl::StrCat("t", i), static_cast<SafetensorsDType>(Below(22))};
      for (int64_t dim = Below(4); dim > 0; --dim) tensor.shape.push_back(8 * Below(3));
      if (tensor.shape.empty() && BitsOf(tensor.dtype) % 8 != 0) tensor.shape = {8};
      tensors.push_back(std::move(tensor));
    }
    const SafetensorsHeader header = MakeSafetensorsHeader(std::move(tensors), {{"format", "pt"}});
    return SafetensorsHeaderBytes(header) +
           std::string(static_cast<size_t>(header.tensors.back().end), 'x');
  }
  void Mutate(std::string& bytes) {
    for (int64_t i = 1 + Below(4); i > 0 && !bytes.empty(); --i) {
      const auto at = static_cast<size_t>(Below(static_cast<int64_t>(bytes.size())));
      switch (Below(6)) {
        case 0:
          bytes[at] = static_cast<char>(Below(256));
          break;
        case 1:
          bytes.erase(at, static_cast<size_t>(1 + Below(8)));
          break;
        case 2:
          bytes.insert(at, Below(2) == 0 ? Number() : Text());
          break;
        case 3:
          bytes.resize(at);
          break;
        case 4:
          bytes.insert(at, bytes.substr(at / 2, static_cast<size_t>(Below(64))));
          break;
        default:
          bytes[at] = "{}[]\",:0 "[Below(9)];
          break;
      }
    }
  }
  std::string WithLength(const std::string& json) {
    std::string file;
    for (int i = 0; i < 8; ++i) file.push_back(static_cast<char>(json.size() >> (8 * i)));
    return file + json + std::string(static_cast<size_t>(Below(20)), 'x');
  }

 private:
  std::mt19937_64 engine_;
};

void ExpectOneLine(const absl::Status& status) {
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(status.message().find('\n'), absl::string_view::npos) << status.message();
  EXPECT_LT(status.message().size(), 2000u);
}

// True for a file that was accepted.
bool CheckFile(const std::string& file) {
  const absl::StatusOr<SafetensorsHeader> header = ParseSafetensorsHeader(file, "f");
  if (!header.ok()) {
    ExpectOneLine(header.status());
    return false;
  }
  int64_t end = 0;
  for (const SafetensorsTensor& tensor : header->tensors) {
    EXPECT_EQ(tensor.begin, end);
    int64_t bits = BitsOf(tensor.dtype);
    for (const int64_t size : tensor.shape) bits *= size;
    EXPECT_EQ(tensor.end - tensor.begin, bits / 8);
    end = tensor.end;
  }
  EXPECT_EQ(header->data_offset + end, static_cast<int64_t>(file.size()));
  return true;
}

TEST(SafetensorsFuzzTest, EveryHeaderIsSoundOrRefused) {
  Generator generator(1);
  int64_t accepted = 0;
  FuzzedInputs inputs(30'000);
  for (int64_t i = 0; i < inputs.count() && !::testing::Test::HasFailure(); ++i) {
    std::string file =
        i % 2 == 0 ? generator.ValidFile() : generator.WithLength(generator.Object(0));
    if (i % 10 == 0) {
      ASSERT_TRUE(CheckFile(file)) << file;
    } else if (i % 3 != 0) {
      generator.Mutate(file);
    }
    inputs.Time(i, [&] { accepted += CheckFile(file) ? 1 : 0; });
  }
  EXPECT_GT(accepted, inputs.count() / 10);
  EXPECT_LT(accepted, inputs.count() / 2);
  inputs.Finish();
}

TEST(SafetensorsFuzzTest, EveryIndexIsSoundOrRefused) {
  Generator generator(2);
  FuzzedInputs inputs(15'000);
  for (int64_t i = 0; i < inputs.count() && !::testing::Test::HasFailure(); ++i) {
    std::string json = i % 2 == 0
                           ? generator.Object(0)
                           : SafetensorsIndexText({{{"a", "model.safetensors"}, {"b", "x"}}, 12});
    generator.Mutate(json);
    inputs.Time(i, [&] {
      const absl::StatusOr<SafetensorsIndex> index = ParseSafetensorsIndex(json, "i");
      if (!index.ok()) ExpectOneLine(index.status());
    });
  }
  inputs.Finish();
}

}  // namespace
}  // namespace plait
