#include "base/allocator.h"

#include <algorithm>
#include <bit>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "base/check.h"

namespace plait {
namespace {

constexpr size_t kAlignment = 64;

HostMemorySource host_memory = {[](size_t bytes) { return std::aligned_alloc(kAlignment, bytes); },
                                std::free};

// Blocks of a device begin at multiples of 256 bytes.
constexpr size_t PlaceSize(size_t size_class) { return (size_class + 255) / 256 * 256; }

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

Allocator::~Allocator() {
  Trim();
  if (reserved_ != nullptr) GiveToSystem(reserved_);
}

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

bool Allocator::Reserve(size_t bytes) {
  PLAIT_CHECK(kind_ == Kind::kDevice && !arena_);
  if (runtime_->AllowsParts()) {
    reserved_ = static_cast<char*>(TakeFromSystem(bytes));
    if (reserved_ == nullptr) return false;
  }
  const std::lock_guard lock(mutex_);
  arena_.emplace(bytes);
  return true;
}

size_t Allocator::reserved_bytes() const {
  const std::lock_guard lock(mutex_);
  return arena_ ? arena_->bytes() : 0;
}

size_t Allocator::reserved_bytes_needed() const {
  const std::lock_guard lock(mutex_);
  return arena_ ? arena_->high_water() + beside_peak_ : 0;
}

std::shared_ptr<void> Allocator::Allocate(size_t bytes) {
  const size_t size_class = RoundedSize(bytes);
  void* block = nullptr;
  Place place;
  {
    std::lock_guard lock(mutex_);
    if (arena_) {
      place.in_arena = arena_->Take(PlaceSize(size_class));
      place.is_beside = !place.in_arena;
      if (place.is_beside) beside_peak_ = std::max(beside_peak_, beside_ += size_class);
    }
    if (place.in_arena && reserved_ != nullptr) {
      block = reserved_ + *place.in_arena;
    } else if (auto& blocks = cached_[size_class]; !blocks.empty()) {
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
  if (IsWatched(place)) runtime_->Use(block, bytes);
  return std::shared_ptr<void>(block, [self = shared_from_this(), size_class, place](void* freed) {
    self->Release(freed, size_class, place);
  });
}

void Allocator::Release(void* block, size_t size_class, const Place& place) {
  if (IsWatched(place)) runtime_->Use(block, 0);
  std::lock_guard lock(mutex_);
  if (place.in_arena) arena_->Give(*place.in_arena, PlaceSize(size_class));
  if (place.is_beside) beside_ -= size_class;
  if (!place.in_arena || reserved_ == nullptr) cached_[size_class].push_back(block);
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
