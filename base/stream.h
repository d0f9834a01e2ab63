// Stream and Event. On the CPU a stream runs its work inline, in call order, so that an event is
// complete when recorded. Streams are ordered by Wait alone; the host does not wait inside a step.
#pragma once

namespace plait {

class Event {
 public:
  // Blocks the host until the work before the event is done. Inline streams have nothing to wait
  // for.
  void Synchronize() const {}
};

class Stream {
 public:
  Event Record() { return {}; }
  // Later work on this stream starts after `event`.
  void Wait(const Event&) {}
};

}  // namespace plait
