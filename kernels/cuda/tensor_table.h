// Many tensors in one launch: what a kernel must know of each goes by value in its parameters, a
// launch has the blocks of all tensors, and a block finds its tensor by binary search.
#pragma once

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "base/status_macros.h"
#include "kernels/cuda/device.h"

namespace plait::cuda {

// Of a kernel's parameters, all together.
inline constexpr size_t kMaxParameterBytes = 4096;

// Entry: a tensor's, of plain types; its member `unsigned first_block` is set by Add. other_bytes:
// of the kernel's other parameters.
template <class Entry, size_t other_bytes>
class TensorTable {
 public:
  static constexpr unsigned kCapacity = static_cast<unsigned>(
      (kMaxParameterBytes - other_bytes - 2 * sizeof(unsigned)) / sizeof(Entry));

  // The tensor that block `block` of the launch has a part of: the last one that begins at it or
  // before.
  __device__ __forceinline__ const Entry& OfBlock(unsigned block) const {
    unsigned first = 0, end = size_;
    while (end - first > 1) {
      const unsigned middle = (first + end) / 2;
      if (entries_[middle].first_block <= block) {
        first = middle;
      } else {
        end = middle;
      }
    }
    return entries_[first];
  }

  // blocks: of this tensor, at least 1. There must be room.
  void Add(Entry entry, unsigned blocks) {
    entry.first_block = blocks_;
    entries_[size_++] = entry;
    blocks_ += blocks;
  }
  unsigned size() const { return size_; }
  unsigned blocks() const { return blocks_; }

 private:
  unsigned size_ = 0;
  unsigned blocks_ = 0;  // of all tensors
  Entry entries_[kCapacity] = {};
};

// launch(table) as often as needed for all tensors, in their order. add(table, tensor) adds at most
// one entry: none for a tensor of no elements.
template <class Table, class Tensors, class Add, class Launch>
absl::Status LaunchInTables(const Tensors& tensors, const Add& add, const Launch& launch) {
  Table table;
  for (const auto& tensor : tensors) {
    if (table.size() == Table::kCapacity) {
      PLAIT_RETURN_IF_ERROR(launch(table));
      table = Table();
    }
    add(table, tensor);
  }
  return table.size() > 0 ? launch(table) : absl::OkStatus();
}

}  // namespace plait::cuda
