// Hdf5TokenSource: pretraining rows from token shards.
// In every epoch of a stage the training documents form one stream in a keyed order
// (DocumentOrder); the stream is cut into windows of row_tokens, the last one shorter; the windows
// are visited in a keyed order (KeyedPermutation). Row r of step s is number s x rows_per_step + r
// of that visit, so order depends on (seed, stage, step, row) and nothing else, every token is seen
// exactly once per epoch, and epochs differ in order and in where documents are cut. A window may
// begin or end inside a document. The pieces in a row are documents of their own: nothing is
// carried over. The last token of a piece that was cut has the document's next token as its target,
// with weight 1, though that token opens another window: so every token but a document's first is
// predicted exactly once per epoch. The target after EOS has weight 0.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "data/data_source.h"
#include "data/document_order.h"
#include "data/prepared_tokens.h"

namespace plait {

// Tokens [begin, begin + count) of the ordered stream as a row.
absl::Status ReadWindow(const PreparedTokens& tokens, const DocumentOrder& order, int64_t begin,
                        int64_t count, Row* out);

class Hdf5TokenSource : public DataSource {
 public:
  // folder: written by `plait prepare`. FailedPrecondition where expected_tokenizer_digest is not
  // empty and not the data's; errors of PreparedTokens::Open.
  static absl::StatusOr<std::unique_ptr<Hdf5TokenSource>> Open(
      const std::string& folder, uint64_t seed, const std::string& expected_tokenizer_digest = "");

  absl::Status ReadRow(const StageRows& stage, int64_t step, int64_t row, Row* out) const override;

  // Of the tokenizer's file in the folder.
  const std::string& tokenizer_name() const { return tokens_.manifest().tokenizer.name; }
  int64_t vocabulary_size() const override { return tokens_.manifest().vocabulary_size; }
  const std::string& tokenizer_digest() const override {
    return tokens_.manifest().tokenizer.digest;
  }
  std::string fingerprint() const override { return tokens_.manifest().Fingerprint(); }

  // Windows of an epoch.
  int64_t NumWindows(int64_t row_tokens) const {
    return (tokens_.num_tokens() + row_tokens - 1) / row_tokens;
  }
  const PreparedTokens& tokens() const { return tokens_; }

 private:
  Hdf5TokenSource(PreparedTokens tokens, uint64_t seed) : tokens_(std::move(tokens)), seed_(seed) {}

  PreparedTokens tokens_;
  uint64_t seed_;
};

}  // namespace plait
