// The text that a tokenizer is trained with: all of the training documents, or the blocks of their
// lines that a keyed hash of document and block takes. Each rank writes what it finds in its part
// of the corpus into a file; the files in the order of the ranks are the sample, however the corpus
// was dealt.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "data/corpus_reader.h"
#include "data/heldout_choice.h"
#include "data/part_file.h"

namespace plait {

struct TokenizerSampleOptions {
  uint64_t seed = 1;
  double fraction = 1;  // of the blocks; from 1 on all of them
};

// Reads the rest of `corpus` and writes what is taken to `path`. `go_on` is asked after every
// document; false ends early.
absl::Status WriteTokenizerSample(CorpusReader& corpus, const HeldoutChoice& choice,
                                  const TokenizerSampleOptions& options, const std::string& path,
                                  const std::function<bool()>& go_on);

// The texts of one file after the other.
class TokenizerSampleReader {
 public:
  // path(i): of file i of `files`.
  TokenizerSampleReader(int files, std::function<std::string(int)> path)
      : files_(files), path_(std::move(path)) {}

  // False at the end and after an error.
  bool Next(std::string* text);
  const absl::Status& status() const { return status_; }

 private:
  absl::StatusOr<bool> TryNext(std::string* text);

  int files_;
  std::function<std::string(int)> path_;
  int file_ = 0;
  std::optional<PartFileReader> reader_;
  absl::Status status_;
};

}  // namespace plait
