// The fixtures of tools/make_tokenizer_fixtures.py.
#pragma once

#include <string>
#include <vector>

#include "base/check.h"
#include "data/compressed_file.h"
#include "data/json_value.h"

namespace plait {

inline constexpr char kTokenizerFixtures[] = "tests/data/tokenizers";

inline std::string ReadFixture(const std::string& name) {
  absl::StatusOr<std::string> content =
      ReadWholeInputFile(std::string(kTokenizerFixtures) + "/" + name, int64_t{64} << 20);
  PLAIT_CHECK(content.ok());
  return *std::move(content);
}

inline std::vector<std::string> LinesOf(const std::string& text) {
  std::vector<std::string> lines;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = text.find('\n', begin);
    lines.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return lines;
}

// The 10,000 strings that every tokenizer is compared on.
inline std::vector<std::string> ComparedStrings() {
  std::vector<std::string> strings;
  for (const std::string& line : LinesOf(ReadFixture("strings.jsonl.gz"))) {
    const absl::StatusOr<JsonDocument> document = JsonDocument::Parse(line, "strings", 4);
    PLAIT_CHECK(document.ok());
    strings.emplace_back(document->root().string());
  }
  return strings;
}

}  // namespace plait
