// A small corpus on disk, half text files in nested folders and half JSONL, and its preparation.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/digest.h"
#include "base/durable_file.h"
#include "data/prepare.h"
#include "tests/data/sample_text.h"
#include "tests/support/temporary_folder.h"

namespace plait {

class SampleCorpus {
 public:
  // At least 2 documents.
  explicit SampleCorpus(int documents) {
    std::filesystem::create_directories(File("corpus/a/b"));
    std::string lines;
    // "a/..." sorts before "lines.jsonl".
    for (int d = 0; d < documents; ++d) {
      texts_.push_back(SampleText(static_cast<uint64_t>(d) + 1000, 20 + 37 * d % 150));
      if (d < documents / 2) {
        const std::string path = File(absl::StrCat("corpus/a/b/", 1000 + d, ".txt"));
        PLAIT_CHECK(WriteFileDurably(path, texts_.back()).ok());
      } else {
        lines += "{\"id\": 7, \"text\": \"" + WithEscapedNewlines(texts_.back()) + "\"}\n\n";
      }
    }
    PLAIT_CHECK(WriteFileDurably(File("corpus/lines.jsonl"), lines).ok());
    PLAIT_CHECK(WriteFileDurably(File("corpus/.hidden"), "\xff").ok());
  }

  std::string File(const std::string& name) const { return folder_.File(name); }
  const std::vector<std::string>& texts() const { return texts_; }

  PrepareOptions Options(const std::string& output) const {
    PrepareOptions options;
    options.inputs = {File("corpus")};
    options.output = File(output);
    options.vocabulary_size = 320;
    options.heldout_fraction = 0.1;
    return options;
  }

 private:
  // As a JSON string needs it; sample text has nothing else to escape.
  static std::string WithEscapedNewlines(const std::string& text) {
    std::string escaped;
    for (char c : text) escaped += c == '\n' ? "\\n" : std::string(1, c);
    return escaped;
  }

  TemporaryFolder folder_;
  std::vector<std::string> texts_;
};

// Digest by file name of everything in the folder.
inline std::map<std::string, std::string> Digests(const std::string& folder) {
  std::map<std::string, std::string> digests;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    digests[entry.path().filename().string()] = *DigestOfFile(entry.path().string());
  }
  return digests;
}

}  // namespace plait
