// What the SIMD attention kernels share before they choose a vector width: block sizes, where each
// document's packed keys lie, and the list of work items.
//
// A document's queries are cut into blocks of kQueryBlock and its keys into blocks of kKeyBlock,
// counted from the document's own start: the arithmetic of a row depends on its place in its
// document and on nothing else, and every work item owns its outputs, so that neither other
// documents nor the number of threads changes a bit.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "kernels/attention_args.h"

namespace plait::cpu {

constexpr int64_t kQueryBlock = 48;
constexpr int64_t kKeyBlock = 192;

constexpr int64_t RoundUp(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

struct AttentionPlan {
  // panel: keys or columns that one micro-kernel call covers, twice the vector's lanes.
  AttentionPlan(const AttentionLayout& layout_in, int64_t panel_in)
      : layout(layout_in),
        panel(panel_in),
        group(layout_in.heads / layout_in.kv_heads),
        padded_dim(RoundUp(layout_in.head_dim, panel_in)) {
    packed_begin.push_back(0);
    for (int64_t s = 0; s < layout.documents; ++s)
      packed_begin.push_back(packed_begin.back() + RoundUp(Keys(s), panel));
  }

  int64_t Queries(int64_t s) const { return layout.query_offsets[s + 1] - layout.query_offsets[s]; }
  int64_t Keys(int64_t s) const { return layout.key_offsets[s + 1] - layout.key_offsets[s]; }
  // Keys that the queries before `query_end` of a document see: the first ones.
  int64_t VisibleKeys(int64_t s, int64_t query_end) const {
    return layout.mask == AttentionMask::kNone ? Keys(s) : query_end + Keys(s) - Queries(s);
  }
  // The first query of a document that sees `key`; Queries(s) where there is none.
  int64_t FirstQuery(int64_t s, int64_t key) const {
    if (layout.mask == AttentionMask::kNone) return 0;
    return std::clamp<int64_t>(key - Keys(s) + Queries(s), 0, Queries(s));
  }
  // Index of the first packed key of block `key_begin` (a multiple of kKeyBlock) of a document.
  int64_t PackedKey(int64_t kv_head, int64_t s, int64_t key_begin) const {
    return kv_head * packed_begin.back() + packed_begin[s] + key_begin;
  }
  // Packed keys of all heads: the transposed form takes head_dim floats for each, panels
  // padded_dim.
  int64_t PackedKeys() const { return layout.kv_heads * packed_begin.back(); }

  AttentionLayout layout;
  int64_t panel;
  int64_t group;                      // query heads that share a key/value head
  int64_t padded_dim;                 // head_dim rounded up to whole panels
  std::vector<int64_t> packed_begin;  // [documents + 1], multiples of panel
};

// One unit of work. `head` is a query head or a key/value head, `begin` the first row of a block,
// counted from the document's start.
struct AttentionItem {
  int64_t document, head, begin;
  double work;  // query-key pairs
};

// Largest first, so that threads which take the next item finish together.
inline void SortByWork(std::vector<AttentionItem>& items) {
  std::stable_sort(items.begin(), items.end(),
                   [](const AttentionItem& a, const AttentionItem& b) { return a.work > b.work; });
}

// Every key block of every kv head of the documents that `wanted` accepts.
template <class Wanted>
std::vector<AttentionItem> KeyBlockItems(const AttentionPlan& plan, const Wanted& wanted) {
  std::vector<AttentionItem> items;
  for (int64_t s = 0; s < plan.layout.documents; ++s) {
    if (!wanted(s)) continue;
    for (int64_t g = 0; g < plan.layout.kv_heads; ++g) {
      for (int64_t begin = 0; begin < plan.Keys(s); begin += kKeyBlock) {
        // Queries that see the block's first key, over the group.
        const double queries =
            static_cast<double>((plan.Queries(s) - plan.FirstQuery(s, begin)) * plan.group);
        const int64_t keys = std::min(kKeyBlock, plan.Keys(s) - begin);
        items.push_back({s, g, begin, queries * static_cast<double>(keys)});
      }
    }
  }
  return items;
}

// Every query block of every head of the documents that `wanted` accepts.
template <class Wanted>
std::vector<AttentionItem> QueryBlockItems(const AttentionPlan& plan, const Wanted& wanted) {
  std::vector<AttentionItem> items;
  for (int64_t s = 0; s < plan.layout.documents; ++s) {
    if (!wanted(s)) continue;
    for (int64_t h = 0; h < plan.layout.heads; ++h) {
      for (int64_t begin = 0; begin < plan.Queries(s); begin += kQueryBlock) {
        const int64_t end = std::min(begin + kQueryBlock, plan.Queries(s));
        const int64_t keys = plan.VisibleKeys(s, end);
        items.push_back({s, h, begin, static_cast<double>((end - begin) * keys)});
      }
    }
  }
  return items;
}

}  // namespace plait::cpu
