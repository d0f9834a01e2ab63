#include "data/document_order.h"

#include <gtest/gtest.h>

#include <set>
#include <vector>

namespace plait {
namespace {

// Lengths 1, 2, 3, ..., one after the other.
int64_t Offset(int64_t document) { return document * (document + 1) / 2; }

RandomKey Key(uint64_t seed) { return RandomKey(seed, RandomPurpose::kTest, "documents"); }

// Documents in the order in which the stream reaches them; checks that each is read from its first
// token to its last without a break.
std::vector<int64_t> Visit(const DocumentOrder& order, int64_t documents) {
  std::vector<int64_t> visited;
  for (int64_t position = 0; position < Offset(documents);) {
    const int64_t document = order.At(position).document;
    visited.push_back(document);
    for (int64_t token = 0; token <= document; ++token, ++position) {
      EXPECT_EQ(order.At(position).document, document);
      EXPECT_EQ(order.At(position).token, token);
    }
  }
  return visited;
}

TEST(DocumentOrderTest, EveryDocumentComesOnceAndWhole) {
  for (const int64_t documents : {1, 2, 3, 7, 64, 100}) {
    const std::vector<int64_t> visited = Visit(DocumentOrder(documents, Offset, Key(5)), documents);
    EXPECT_EQ(visited.size(), static_cast<size_t>(documents));
    EXPECT_EQ(std::set<int64_t>(visited.begin(), visited.end()).size(), visited.size());
  }
}

TEST(DocumentOrderTest, KeysDifferAndNoKeyIsTheStoredOrder) {
  const std::vector<int64_t> stored = Visit(DocumentOrder(50, Offset, std::nullopt), 50);
  for (int64_t d = 0; d < 50; ++d) EXPECT_EQ(stored[static_cast<size_t>(d)], d);
  const std::vector<int64_t> first = Visit(DocumentOrder(50, Offset, Key(1)), 50);
  EXPECT_NE(first, stored);
  EXPECT_NE(first, Visit(DocumentOrder(50, Offset, Key(2)), 50));
  EXPECT_EQ(first, Visit(DocumentOrder(50, Offset, Key(1)), 50));
}

}  // namespace
}  // namespace plait
