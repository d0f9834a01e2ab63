// Tells AddressSanitizer and ThreadSanitizer when a fiber's stack takes the place of another; empty
// without them. To ThreadSanitizer every fiber is a thread and a switch orders nothing: only
// launches and barriers do (Release, Acquire), as on a GPU. The files that use this are compiled
// without either sanitizer's instrumentation, so that no frame of theirs lies on a fake stack and
// no access of theirs is a device thread's; CMakeLists.txt then says which sanitizer there is.
#pragma once

#include <cstddef>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#elif defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>

extern "C" {
void AnnotateIgnoreReadsBegin(const char* file, int line);
void AnnotateIgnoreReadsEnd(const char* file, int line);
void AnnotateIgnoreWritesBegin(const char* file, int line);
void AnnotateIgnoreWritesEnd(const char* file, int line);
}
#endif

namespace plait::emulation {

#if defined(__SANITIZE_ADDRESS__)

class FiberSanitizer {
 public:
  static constexpr bool kFindsRaces = false;

  void Create(void* top, size_t bytes, const char* /*name*/) {
    bottom_ = static_cast<char*>(top) - bytes;
    bytes_ = bytes;
  }
  void Destroy() {}
  void Leave(const FiberSanitizer& to) {
    __sanitizer_start_switch_fiber(&fake_stack_, to.bottom_, to.bytes_);
  }
  // For the last time: its fake stack is freed.
  void LeaveForGood(const FiberSanitizer& to) {
    __sanitizer_start_switch_fiber(nullptr, to.bottom_, to.bytes_);
  }
  void Arrive() { __sanitizer_finish_switch_fiber(fake_stack_, nullptr, nullptr); }
  // For the first time; learns whose stack `from` is.
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
  static constexpr bool kFindsRaces = true;

  FiberSanitizer() : fiber_(__tsan_get_current_fiber()) {}
  void Create(void*, size_t, const char* name) {
    fiber_ = __tsan_create_fiber(0);
    __tsan_set_fiber_name(fiber_, name);
  }
  void Destroy() { __tsan_destroy_fiber(fiber_); }
  void Leave(const FiberSanitizer& to) {
    __tsan_switch_to_fiber(to.fiber_, __tsan_switch_to_fiber_no_sync);
  }
  void LeaveForGood(const FiberSanitizer& to) { Leave(to); }
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
  static constexpr bool kFindsRaces = false;

  void Create(void*, size_t, const char*) {}
  void Destroy() {}
  void Leave(const FiberSanitizer&) {}
  void LeaveForGood(const FiberSanitizer&) {}
  void Arrive() {}
  void Arrive(FiberSanitizer*) {}
  static void Release(const void*) {}
  static void Acquire(const void*) {}
};

#endif

// While one lives, the running fiber's accesses in the C library, and blocks that it takes and
// frees there, are not looked at for races.
class IgnoreAccesses {
 public:
#if defined(__SANITIZE_THREAD__)
  IgnoreAccesses() {
    AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
    AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
  }
  ~IgnoreAccesses() {
    AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
    AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
  }
#else
  IgnoreAccesses() {}
  ~IgnoreAccesses() {}
#endif
  IgnoreAccesses(const IgnoreAccesses&) = delete;
  IgnoreAccesses& operator=(const IgnoreAccesses&) = delete;
};

}  // namespace plait::emulation
