#include "base/allocator.h"

#include <bit>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace plait {
namespace {

constexpr size_t kAlignment = 64;

HostMemorySource host_memory = {[](size_t bytes) { return std::aligned_alloc(kAlignment, bytes); },
                                std::free};

[[noreturn]] void OutOfMemory(size_t bytes, size_t held) {
  std::fprintf(stderr,
               "plait: out of memory: asked the system for %zu bytes while holding %zu; use a "
               "smaller model, "
               "fewer tokens at a time or recomputation\n",
               bytes, held);
  std::_Exit(75);
}

}  // namespace

std::shared_ptr<void> AllocateZeroed(size_t bytes) {
  const size_t size = (bytes + kAlignment) / kAlignment * kAlignment;
  void* block = host_memory.allocate(size);
  if (block == nullptr) OutOfMemory(size, 0);
  std::memset(block, 0, size);
  return std::shared_ptr<void>(block, host_memory.free);
}

void SetHostMemorySource(HostMemorySource source) { host_memory = source; }

Allocator::~Allocator() { Trim(); }

void* Allocator::TakeFromSystem(size_t size_class) {
  switch (kind_) {
    case Kind::kHost:
      return host_memory.allocate(size_class);
    case Kind::kDevice:
      return runtime_->Allocate(size_class);
    case Kind::kPinned:
      return runtime_->AllocatePinned(size_class);
  }
  return nullptr;
}

void Allocator::GiveToSystem(void* block) {
  switch (kind_) {
    case Kind::kHost:
      return host_memory.free(block);
    case Kind::kDevice:
      return runtime_->Free(block);
    case Kind::kPinned:
      return runtime_->FreePinned(block);
  }
}

size_t Allocator::RoundedSize(size_t bytes) {
  if (bytes <= 512)
    return (bytes + kAlignment - 1) / kAlignment * kAlignment + (bytes == 0 ? kAlignment : 0);
  const size_t granule = std::bit_floor(bytes) / 8;
  return (bytes + granule - 1) / granule * granule;
}

std::shared_ptr<void> Allocator::Allocate(size_t bytes) {
  const size_t size_class = RoundedSize(bytes);
  void* block = nullptr;
  {
    std::lock_guard lock(mutex_);
    auto& blocks = cached_[size_class];
    if (!blocks.empty()) {
      block = blocks.back();
      blocks.pop_back();
    }
    in_use_ += size_class;
    if (in_use_ > peak_) peak_ = in_use_;
  }
  if (block == nullptr) {
    block = TakeFromSystem(size_class);
    if (block == nullptr) {
      Trim();
      block = TakeFromSystem(size_class);
    }
    if (block == nullptr) OutOfMemory(size_class, bytes_in_use() - size_class);
  }
  if (kind_ == Kind::kDevice) runtime_->Use(block, bytes);
  return std::shared_ptr<void>(block, [self = shared_from_this(), size_class](void* freed) {
    self->Release(freed, size_class);
  });
}

void Allocator::Release(void* block, size_t size_class) {
  if (kind_ == Kind::kDevice) runtime_->Use(block, 0);
  std::lock_guard lock(mutex_);
  cached_[size_class].push_back(block);
  in_use_ -= size_class;
}

void Allocator::Trim() {
  std::lock_guard lock(mutex_);
  for (auto& [size_class, blocks] : cached_) {
    for (void* block : blocks) GiveToSystem(block);
  }
  cached_.clear();
}

size_t Allocator::bytes_in_use() const {
  std::lock_guard lock(mutex_);
  return in_use_;
}

size_t Allocator::bytes_in_use_peak() const {
  std::lock_guard lock(mutex_);
  return peak_;
}

void Allocator::ResetPeak() {
  std::lock_guard lock(mutex_);
  peak_ = in_use_;
}

}  // namespace plait
