// DocumentOrder: the stream of all tokens with the documents in a keyed order, looked up at any
// position in O(log n) without an index of that order. The documents are the leaves of a balanced
// binary tree over their stored order; at each inner node the key swaps the two halves or not, and
// the order is the walk over the leaves. A node's range of documents is contiguous in storage, so
// its tokens are a difference of two stored offsets, and a position is found by going down.
// Documents that are neighbours in storage stay near one another: windows of the stream have to be
// permuted too (KeyedPermutation).
#pragma once

#include <cstdint>
#include <functional>
#include <optional>

#include "base/random.h"

namespace plait {

class DocumentOrder {
 public:
  struct Place {
    int64_t document = 0;
    int64_t token = 0;  // inside the document
  };

  // offset(d): the stored position of document d's first token, ascending, offset(0) = 0,
  // offset(num_documents) = all tokens. No key: the stored order. num_documents >= 1.
  DocumentOrder(int64_t num_documents, std::function<int64_t(int64_t)> offset,
                const std::optional<RandomKey>& key)
      : num_documents_(num_documents), offset_(std::move(offset)), key_(key) {}

  // What lies at `position` of the stream, from 0 to all tokens - 1.
  Place At(int64_t position) const;

 private:
  int64_t num_documents_;
  std::function<int64_t(int64_t)> offset_;
  std::optional<RandomKey> key_;
};

}  // namespace plait
