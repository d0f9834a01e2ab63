// HeldoutReader: fixed rows of the held-out split for evaluation, always the same for the same row
// length and limit. The documents in stored order form one stream, cut into windows as in
// hdf5_token_source.h: every token but a document's first is predicted once. Where fewer tokens are
// asked for than there are, the rows are spread evenly over the stream. Bits per byte = sum of
// weight x negative log2-likelihood over the rows / sum of text_bytes.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "data/batch.h"
#include "data/document_order.h"
#include "data/prepared_tokens.h"

namespace plait {

struct HeldoutBatch {
  Batch batch;
  // Bytes of text that the weighted targets add: EOS adds none. Over all rows together: the bytes
  // of all held-out text.
  int64_t text_bytes = 0;
};

class HeldoutReader {
 public:
  // max_tokens <= 0: all. At least one row. Errors of PreparedTokens::Open; InvalidArgument for
  // row_tokens < 1.
  static absl::StatusOr<HeldoutReader> Open(const std::string& folder, int64_t row_tokens,
                                            int64_t max_tokens);

  int64_t num_rows() const { return static_cast<int64_t>(windows_.size()); }
  // Rows [begin, begin + count), at least one; those from num_rows() on are all padding.
  // Thread-safe.
  absl::StatusOr<HeldoutBatch> Read(int64_t begin, int64_t count) const;

  const PreparedTokens& tokens() const { return tokens_; }

 private:
  HeldoutReader(PreparedTokens tokens, int64_t row_tokens)
      : tokens_(std::move(tokens)), row_tokens_(row_tokens) {}

  PreparedTokens tokens_;
  int64_t row_tokens_;
  std::vector<int64_t> windows_;
};

}  // namespace plait
