#include "base/arena.h"

#include <algorithm>
#include <iterator>

#include "base/check.h"

namespace plait {

void Arena::AddFree(size_t begin, size_t bytes) {
  if (bytes == 0) return;
  free_.emplace(begin, bytes);
  free_by_size_.emplace(bytes, begin);
}

void Arena::RemoveFree(std::map<size_t, size_t>::iterator range) {
  free_by_size_.erase({range->second, range->first});
  free_.erase(range);
}

std::optional<size_t> Arena::Take(size_t bytes) {
  PLAIT_CHECK(bytes > 0);
  const auto found = free_by_size_.lower_bound({bytes, 0});
  if (found == free_by_size_.end()) return std::nullopt;
  const auto [free_bytes, begin] = *found;
  RemoveFree(free_.find(begin));
  AddFree(begin + bytes, free_bytes - bytes);
  high_water_ = std::max(high_water_, begin + bytes);
  return begin;
}

void Arena::Give(size_t begin, size_t bytes) {
  size_t end = begin + bytes;
  PLAIT_CHECK(bytes > 0 && end <= bytes_);
  auto next = free_.lower_bound(begin);
  PLAIT_CHECK(next == free_.end() || next->first >= end);
  if (next != free_.begin()) {
    const auto before = std::prev(next);
    PLAIT_CHECK(before->first + before->second <= begin);
    if (before->first + before->second == begin) {
      begin = before->first;
      RemoveFree(before);
    }
  }
  if (next != free_.end() && next->first == end) {
    end += next->second;
    RemoveFree(next);
  }
  AddFree(begin, end - begin);
}

}  // namespace plait
