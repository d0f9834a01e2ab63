// Who attends to what where the context axis cuts a flat microbatch of packed documents into equal
// segments, one a rank. Decided from the document offsets alone, so that all ranks agree without a
// word. Two ways (context_attention.h moves the data):
//
// Gathered: every rank has all keys, and a rank may compute other queries than its own. Causality
// gives late segments more work, so ranks i and ranks - 1 - i may swap the second halves of their
// queries, where that lowers the largest work of any rank: of one long document each then has an
// early and a late part, equally much for all.
//
// Ring: a rank computes its own queries; the keys of the document that is open at a segment's end
// visit the later segments that the document reaches.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace plait {

enum class ContextExchange { kGather, kRing };

// Queries [begin, end) of the flat microbatch with the keys [key_begin, end), from the start of the
// document that is open at `begin`.
struct QueryRange {
  int64_t begin = 0, end = 0, key_begin = 0;
  std::vector<int32_t> query_offsets;  // [documents + 1], from the first query
  std::vector<int32_t> key_offsets;    // [documents + 1], from the first key

  int64_t documents() const { return static_cast<int64_t>(query_offsets.size()) - 1; }
  // Query-key pairs that causality leaves: the work.
  int64_t pairs() const;
};

class ContextAttentionPlan {
 public:
  // document_offsets: [documents + 1] of the whole microbatch, whose tokens `ranks` divides.
  ContextAttentionPlan(std::span<const int32_t> document_offsets, int ranks);

  int ranks() const { return ranks_; }
  int64_t segment_tokens() const { return segment_; }

  // Gathered. The rank that swaps halves with `rank`; the middle one of an odd number is its own.
  int Mirror(int rank) const { return ranks_ - 1 - rank; }
  bool swaps_halves() const { return swaps_halves_; }
  // Rows of a segment before its second half.
  int64_t half() const { return segment_ / 2; }
  // What `rank` computes, in the order of its rows: own segment, or own first half and the mirror's
  // second.
  std::vector<QueryRange> Ranges(int rank) const { return Ranges(rank, swaps_halves_); }
  // The largest work of a rank, in query-key pairs, with or without the swap.
  int64_t LargestWork(bool swaps_halves) const;

  // Ring. The own segment as documents that begin in it.
  QueryRange Own(int rank) const;
  // The keys [begin, end of the segment) that the next `visits` segments see.
  struct SharedKeys {
    int64_t begin = 0;
    int visits = 0;
  };
  SharedKeys Shared(int rank) const;
  // The first rows of a rank's segment that see keys of earlier ones.
  int64_t OpenQueries(int rank) const;

 private:
  std::vector<QueryRange> Ranges(int rank, bool swaps_halves) const;
  QueryRange Range(int64_t begin, int64_t end) const;

  std::vector<int32_t> document_offsets_;
  int ranks_;
  int64_t segment_;
  bool swaps_halves_ = false;
};

}  // namespace plait
