// A packed sequence cut into contiguous segments at arbitrary tokens: what each rank of the context
// axis sees of it.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "base/tensor.h"

namespace plait {

struct DocumentSegment {
  int64_t begin, end;            // tokens of the whole sequence
  std::vector<int32_t> offsets;  // of the parts of documents in it, from 0
  bool continues_before;         // whether its first document began earlier
  bool continues_after;          // whether its last document goes on
  int64_t first_document;        // of the whole sequence

  int64_t documents() const { return static_cast<int64_t>(offsets.size()) - 1; }
  // Tokens of its first and of its last document, as rows of the segment.
  int64_t first_end() const { return offsets[1]; }
  int64_t last_begin() const { return offsets[offsets.size() - 2]; }
};

// document_offsets: rising (no empty documents). cuts: rising, inside the sequence.
inline std::vector<DocumentSegment> CutIntoSegments(const std::vector<int32_t>& document_offsets,
                                                    const std::vector<int32_t>& cuts) {
  std::vector<DocumentSegment> segments;
  std::vector<int32_t> edges = {0};
  edges.insert(edges.end(), cuts.begin(), cuts.end());
  edges.push_back(document_offsets.back());
  const auto is_start = [&](int32_t t) { return std::ranges::binary_search(document_offsets, t); };
  for (size_t i = 0; i + 1 < edges.size(); ++i) {
    const int32_t begin = edges[i], end = edges[i + 1];
    DocumentSegment segment{begin, end, {0}, !is_start(begin), !is_start(end), 0};
    for (const int32_t offset : document_offsets) {
      if (offset > begin && offset < end) segment.offsets.push_back(offset - begin);
    }
    segment.offsets.push_back(end - begin);
    const auto after = std::ranges::upper_bound(document_offsets, begin);
    segment.first_document = after - document_offsets.begin() - 1;
    segments.push_back(segment);
  }
  return segments;
}

// The rows of `from` [begin, end) in a tensor of their own.
inline Tensor CopyOfRows(const Tensor& from, int64_t begin, int64_t end) {
  return from.Slice(begin, end).Clone();
}

// Rows [row, row + from's) of `to` = from.
inline void SetRows(const Tensor& from, Tensor& to, int64_t row) {
  const int64_t rows = from.shape()[0];
  std::copy_n(static_cast<const char*>(from.raw()), from.bytes(),
              static_cast<char*>(to.Slice(row, row + rows).raw()));
}

}  // namespace plait
