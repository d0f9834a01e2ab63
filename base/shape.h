// Sizes of a tensor's dimensions, outermost first. Rank at most 5.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>

#include "base/check.h"

namespace plait {

class Shape {
 public:
  static constexpr int kMaxRank = 5;

  Shape() = default;
  Shape(std::initializer_list<int64_t> sizes) : Shape(std::span(sizes.begin(), sizes.size())) {}
  explicit Shape(std::span<const int64_t> sizes) : rank_(static_cast<int>(sizes.size())) {
    PLAIT_CHECK(rank_ <= kMaxRank);
    std::copy(sizes.begin(), sizes.end(), sizes_.begin());
  }

  int rank() const { return rank_; }
  int64_t operator[](int dim) const { return sizes_[dim]; }
  std::span<const int64_t> sizes() const { return {sizes_.data(), static_cast<size_t>(rank_)}; }

  int64_t num_elements() const {
    int64_t product = 1;
    for (int64_t size : sizes()) product *= size;
    return product;
  }

  // "[3, 4]"
  std::string ToString() const {
    std::string text = "[";
    for (int dim = 0; dim < rank_; ++dim)
      text += (dim > 0 ? ", " : "") + std::to_string(sizes_[dim]);
    return text + "]";
  }

  friend bool operator==(const Shape&, const Shape&) = default;

 private:
  int rank_ = 0;
  std::array<int64_t, kMaxRank> sizes_{};
};

}  // namespace plait
