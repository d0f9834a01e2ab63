#include "model/context_attention_plan.h"

#include <algorithm>

#include "base/check.h"

namespace plait {

int64_t QueryRange::pairs() const {
  int64_t pairs = 0;
  for (int64_t s = 0; s < documents(); ++s) {
    const int64_t queries = query_offsets[s + 1] - query_offsets[s];
    const int64_t keys = key_offsets[s + 1] - key_offsets[s];
    pairs += queries * keys - queries * (queries - 1) / 2;
  }
  return pairs;
}

ContextAttentionPlan::ContextAttentionPlan(std::span<const int32_t> document_offsets, int ranks)
    : document_offsets_(document_offsets.begin(), document_offsets.end()), ranks_(ranks) {
  PLAIT_CHECK(!document_offsets.empty() && document_offsets.back() % ranks == 0);
  segment_ = document_offsets.back() / ranks;
  swaps_halves_ = ranks > 1 && half() > 0 && LargestWork(true) < LargestWork(false);
}

QueryRange ContextAttentionPlan::Range(int64_t begin, int64_t end) const {
  QueryRange range{.begin = begin, .end = end, .key_begin = begin};
  range.query_offsets.push_back(0);
  range.key_offsets.push_back(0);
  if (begin == end) return range;
  auto next = std::upper_bound(document_offsets_.begin(), document_offsets_.end(), begin);
  range.key_begin = *(next - 1);
  for (int64_t last = begin; last < end; ++next) {
    last = std::min<int64_t>(*next, end);
    range.query_offsets.push_back(static_cast<int32_t>(last - begin));
    range.key_offsets.push_back(static_cast<int32_t>(last - range.key_begin));
  }
  return range;
}

std::vector<QueryRange> ContextAttentionPlan::Ranges(int rank, bool swaps_halves) const {
  const int64_t begin = rank * segment_, end = begin + segment_;
  if (!swaps_halves) return {Range(begin, end)};
  const int64_t mirror = Mirror(rank) * segment_;
  return {Range(begin, begin + half()), Range(mirror + half(), mirror + segment_)};
}

int64_t ContextAttentionPlan::LargestWork(bool swaps_halves) const {
  int64_t largest = 0;
  for (int rank = 0; rank < ranks_; ++rank) {
    int64_t work = 0;
    for (const QueryRange& range : Ranges(rank, swaps_halves)) work += range.pairs();
    largest = std::max(largest, work);
  }
  return largest;
}

QueryRange ContextAttentionPlan::Own(int rank) const {
  QueryRange range = Range(rank * segment_, (rank + 1) * segment_);
  range.key_begin = range.begin;
  range.key_offsets = range.query_offsets;
  return range;
}

ContextAttentionPlan::SharedKeys ContextAttentionPlan::Shared(int rank) const {
  const int64_t begin = rank * segment_, end = begin + segment_;
  if (segment_ == 0 || rank == ranks_ - 1) return {.begin = end};
  // The document of the next segment's first token.
  const auto next = std::upper_bound(document_offsets_.begin(), document_offsets_.end(), end);
  const int64_t start = *(next - 1), last = *next - 1;
  if (start == end) return {.begin = end};
  return {.begin = std::max(begin, start), .visits = static_cast<int>(last / segment_) - rank};
}

int64_t ContextAttentionPlan::OpenQueries(int rank) const {
  if (rank == 0 || Shared(rank - 1).visits == 0) return 0;
  const int64_t begin = rank * segment_;
  const auto next = std::upper_bound(document_offsets_.begin(), document_offsets_.end(), begin);
  return std::min<int64_t>(*next - begin, segment_);
}

}  // namespace plait
