// A std::vector whose elements kernels reach, as those of Tensor::OnHost: on the device of a
// _gpu_test, too, where it is made inside a test.
#pragma once

#include <cstddef>
#include <memory>
#include <new>
#include <utility>
#include <vector>

#include "base/allocator.h"

namespace plait {

template <class T>
class ReachableAllocator {
 public:
  using value_type = T;

  ReachableAllocator() = default;
  template <class Other>
  explicit(false) ReachableAllocator(const ReachableAllocator<Other>&) {}

  // The block's owner stands before its elements.
  T* allocate(size_t count) {
    std::shared_ptr<void> block = AllocateZeroed(kOwnerBytes + count * sizeof(T));
    void* begin = block.get();
    new (begin) std::shared_ptr<void>(std::move(block));
    return reinterpret_cast<T*>(static_cast<char*>(begin) + kOwnerBytes);
  }
  void deallocate(T* elements, size_t) {
    auto* owner =
        reinterpret_cast<std::shared_ptr<void>*>(reinterpret_cast<char*>(elements) - kOwnerBytes);
    const std::shared_ptr<void> block = std::move(*owner);
    owner->~shared_ptr();
  }

  friend bool operator==(const ReachableAllocator&, const ReachableAllocator&) { return true; }

 private:
  static constexpr size_t kOwnerBytes = 64;
};

template <class T>
using ReachableVector = std::vector<T, ReachableAllocator<T>>;

}  // namespace plait
