// A fiber: code on a stack of its own, on the host thread that made it, run in turns with that
// thread's own code.
#pragma once

#include <boost/context/fiber.hpp>
#include <functional>

#include "kernels/cuda/emulation/fiber_sanitizer.h"

namespace plait::emulation {

class Fiber {
 public:
  // `run` is called on the fiber's stack, anew whenever Resume finds it ended. `name`: in reports.
  Fiber(const char* name, std::function<void()> run);
  // Not while `run` is under way.
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  // From the thread's own code: returns when `run` suspends or ends.
  void Resume();
  // Inside of `run`: returns at the next Resume.
  void Suspend();

  // In this process.
  static int NumLive();

 private:
  std::function<void()> run_;
  bool ending_ = false;
  boost::context::fiber own_;      // while the fiber does not run
  boost::context::fiber resumer_;  // while it does
  FiberSanitizer own_stack_, resumer_stack_;
};

}  // namespace plait::emulation
