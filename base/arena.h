// Arena: which ranges of one block of memory are taken. The smallest free range that is large
// enough is cut (of equal ones the first), and neighbours that are free are one: the same calls
// give the same places, and little more is needed than what is in use at most. Has no memory
// itself. Not thread-safe.
#pragma once

#include <cstddef>
#include <map>
#include <optional>
#include <set>
#include <utility>

namespace plait {

class Arena {
 public:
  explicit Arena(size_t bytes) : bytes_(bytes) { AddFree(0, bytes); }

  // Where so many bytes begin, at least 1; absent where there is no room.
  std::optional<size_t> Take(size_t bytes);
  // A range of Take.
  void Give(size_t begin, size_t bytes);

  size_t bytes() const { return bytes_; }
  // The highest end that a range has had: as many bytes would have done.
  size_t high_water() const { return high_water_; }

 private:
  void AddFree(size_t begin, size_t bytes);
  void RemoveFree(std::map<size_t, size_t>::iterator range);

  const size_t bytes_;
  size_t high_water_ = 0;
  std::map<size_t, size_t> free_;                     // begin: bytes
  std::set<std::pair<size_t, size_t>> free_by_size_;  // bytes, begin
};

}  // namespace plait
