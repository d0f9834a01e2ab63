// Tells AddressSanitizer and ThreadSanitizer when a fiber's stack takes the place of another; empty
// without them. To ThreadSanitizer a switch orders nothing: only barriers do (Release, Acquire), as
// on a GPU.
#pragma once

#include <cstddef>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#elif defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
#endif

namespace plait::emulation {

#if defined(__SANITIZE_ADDRESS__)

class FiberSanitizer {
 public:
  void Create(void* top, size_t bytes) {
    bottom_ = static_cast<char*>(top) - bytes;
    bytes_ = bytes;
  }
  void Leave(const FiberSanitizer& to) {
    __sanitizer_start_switch_fiber(&fake_stack_, to.bottom_, to.bytes_);
  }
  void Arrive() { __sanitizer_finish_switch_fiber(fake_stack_, nullptr, nullptr); }
  // The first arrival; learns whose stack `from` is.
  void Arrive(FiberSanitizer* from) {
    __sanitizer_finish_switch_fiber(nullptr, &from->bottom_, &from->bytes_);
  }
  static void Release(const void*) {}
  static void Acquire(const void*) {}

 private:
  void* fake_stack_ = nullptr;
  const void* bottom_ = nullptr;
  size_t bytes_ = 0;
};

#elif defined(__SANITIZE_THREAD__)

class FiberSanitizer {
 public:
  FiberSanitizer() : fiber_(__tsan_get_current_fiber()) {}
  void Create(void*, size_t) { fiber_ = __tsan_create_fiber(0); }
  void Leave(const FiberSanitizer& to) {
    __tsan_switch_to_fiber(to.fiber_, __tsan_switch_to_fiber_no_sync);
  }
  void Arrive() {}
  void Arrive(FiberSanitizer*) {}
  static void Release(const void* at) { __tsan_release(const_cast<void*>(at)); }
  static void Acquire(const void* at) { __tsan_acquire(const_cast<void*>(at)); }

 private:
  void* fiber_;
};

#else

class FiberSanitizer {
 public:
  void Create(void*, size_t) {}
  void Leave(const FiberSanitizer&) {}
  void Arrive() {}
  void Arrive(FiberSanitizer*) {}
  static void Release(const void*) {}
  static void Acquire(const void*) {}
};

#endif

}  // namespace plait::emulation
