#include "kernels/cuda/emulation/block.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <numeric>

#include "absl/strings/str_cat.h"

namespace plait::emulation {
namespace {

constexpr unsigned kWarp = 32;
// ThreadSanitizer has 8128 threads and fibers in all.
constexpr int kManyFibers = 4096;

std::string ToString(Site site) { return absl::StrCat(site.file, ":", site.line); }

std::string MaskText(unsigned mask) {
  return absl::StrCat("mask 0x", absl::Hex(mask, absl::kZeroPad8));
}

bool Names(unsigned mask, unsigned lane) { return (mask >> lane & 1) != 0; }

bool SameSite(Site a, Site b) {
  return a.line == b.line && (a.file == b.file || std::strcmp(a.file, b.file) == 0);
}

}  // namespace

void End(const std::string& what) {
  const std::string line = absl::StrCat("emulated kernel: ", what, "\n");
  std::fputs(line.c_str(), stderr);
  std::abort();
}

std::string ToString(Dimensions d) { return absl::StrCat("(", d.x, ", ", d.y, ", ", d.z, ")"); }

void Block::Run(Dimensions size, size_t dynamic_shared_bytes, const std::function<void()>& body,
                Order order, uint64_t seed, uint64_t number) {
  body_ = &body;
  num_threads_ = size.x * size.y * size.z;
  shuffled_ = order == Order::kShuffled;
  if (shuffled_) random_.seed(seed);
  ChooseFibers(number);
  for (unsigned i = 0; i < num_threads_; ++i) {
    thread(i).index = {i % size.x, i / size.x % size.y, i / (size.x * size.y)};
    thread(i).state = State::kReady;
  }
  dynamic_bytes_ = dynamic_shared_bytes;
  dynamic_.reset(new char[dynamic_bytes_]);
  std::memset(dynamic_.get(), 0xff, dynamic_bytes_);
  order_.resize(num_threads_);
  std::iota(order_.begin(), order_.end(), 0u);
  if (order == Order::kReversed) std::reverse(order_.begin(), order_.end());
  num_finished_ = 0;
  while (num_finished_ < num_threads_) {
    if (shuffled_) std::shuffle(order_.begin(), order_.end(), random_);
    bool moved = false;
    for (const unsigned i : order_) {
      if (thread(i).state != State::kReady) continue;
      running_ = i;
      current.thread = thread(i).index;
      thread(i).fiber->Resume();
      moved = true;
    }
    moved = ReleaseBlockBarrier() || moved;
    if (!moved) FailDeadlock();
  }
  shared_.clear();
  static_bytes_ = 0;
  dynamic_.reset();
}

void Block::BlockBarrier(Site site) {
  DeviceThread& own = running();
  own.site = site;
  own.state = State::kAtBlockBarrier;
  const void* place = clocks_[set_].block.place();
  FiberSanitizer::Release(place);
  own.fiber->Suspend();
  FiberSanitizer::Acquire(place);
}

void Block::WarpBarrier(unsigned mask, Site site) {
  const void* place = FiberSanitizer::kFindsRaces ? warp_clock(mask).place() : nullptr;
  FiberSanitizer::Release(place);
  WarpWait(WarpOperation::kBarrier, mask, 0, 0, site);
  FiberSanitizer::Acquire(place);
}

uint64_t Block::WarpWait(WarpOperation operation, unsigned mask, uint64_t value, unsigned source,
                         Site site) {
  DeviceThread& own = running();
  if (!Names(mask, lane())) {
    FailAt(site, absl::StrCat("lane ", lane(), " is not in its own ", MaskText(mask)));
  }
  own.operation = operation;
  own.mask = mask;
  own.value = value;
  own.source = source;
  own.site = site;
  own.state = State::kAtWarp;
  CompleteWarp();
  if (own.state == State::kAtWarp) own.fiber->Suspend();
  return own.value;
}

void Block::BeforeAtomic() {
  if (shuffled_ && random_() % 2 == 0) running().fiber->Suspend();
}

void* Block::SharedArray(const void* key, size_t bytes, Site site) {
  auto& memory = shared_[key];
  if (!memory) {
    static_bytes_ += bytes;
    if (static_bytes_ > LaunchLimits::kStaticSharedBytes) {
      FailAt(site, absl::StrCat("static shared memory of a block exceeds 48 KiB: ", static_bytes_,
                                " bytes"));
    }
    if (static_bytes_ + dynamic_bytes_ > LaunchLimits::kSharedBytes) {
      FailAt(site, absl::StrCat("shared memory of a block exceeds 227 KiB: ", static_bytes_,
                                " bytes static and ", dynamic_bytes_, " dynamic"));
    }
    memory.reset(new char[bytes]);
    std::memset(memory.get(), 0xff, bytes);
  }
  return memory.get();
}

unsigned Block::lane() const { return running_ % kWarp; }

void Block::FailAt(Site site, const std::string& what) const {
  End(absl::StrCat(ToString(site), ": thread ", ToString(current.thread), " of block ",
                   ToString(current.block), ": ", what));
}

Block::BarrierClock& Block::warp_clock(unsigned mask) {
  return clocks_[set_].warps[{running_ / kWarp, mask}];
}

void Block::ChooseFibers(uint64_t number) {
  set_ = number % kFiberSets;
  if (fiber_sets_[set_].size() < num_threads_ && Fiber::NumLive() > kManyFibers) set_ = 0;
  threads_ = &fiber_sets_[set_];
  while (threads_->size() < num_threads_) {
    threads_->push_back(std::make_unique<DeviceThread>());
    DeviceThread& made = *threads_->back();
    const std::string name = absl::StrCat("device thread ", threads_->size() - 1);
    made.fiber = std::make_unique<Fiber>(name.c_str(), [this, &made] {
      FiberSanitizer::Acquire(&begin_);
      (*body_)();
      FiberSanitizer::Release(&end_);
      made.state = State::kFinished;
      ++num_finished_;
    });
  }
}

// Lets the lanes of the running thread's mask go on where all of them wait with it.
void Block::CompleteWarp() {
  const DeviceThread& own = running();
  const unsigned mask = own.mask;
  const unsigned first = running_ / kWarp * kWarp;
  for (unsigned lane = 0; lane < kWarp; ++lane) {
    if (!Names(mask, lane)) continue;
    FailIfGone(own, first + lane);
    const DeviceThread& other = thread(first + lane);
    if (other.state != State::kAtWarp) return;  // on its way; if not, FailDeadlock will tell
    if (Together(own, other)) continue;
    if (!Names(other.mask, this->lane())) return;  // it waits for others, and may come yet
    FailApart(own, other);
  }
  uint64_t values[kWarp] = {};
  uint64_t votes = 0;
  for (unsigned lane = 0; lane < kWarp; ++lane) {
    if (!Names(mask, lane)) continue;
    values[lane] = thread(first + lane).value;
    if (values[lane] != 0) votes |= uint64_t{1} << lane;
  }
  for (unsigned lane = 0; lane < kWarp; ++lane) {
    if (!Names(mask, lane)) continue;
    DeviceThread& waiting = thread(first + lane);
    if (waiting.operation == WarpOperation::kShuffle) {
      if (!Names(mask, waiting.source)) {
        End(absl::StrCat(ToString(waiting.site), ": thread ", ToString(waiting.index), " of block ",
                         ToString(current.block), ": shuffle from lane ", waiting.source,
                         ", which is not in ", MaskText(mask)));
      }
      waiting.value = values[waiting.source];
    } else {
      waiting.value = votes;
    }
    waiting.state = State::kReady;
  }
  if (FiberSanitizer::kFindsRaces && own.operation == WarpOperation::kBarrier) {
    ++warp_clock(mask).turn;
  }
}

bool Block::ReleaseBlockBarrier() {
  const DeviceThread* first = nullptr;
  for (unsigned i = 0; i < num_threads_; ++i) {
    const DeviceThread& other = thread(i);
    if (other.state == State::kFinished) continue;
    if (other.state != State::kAtBlockBarrier) return false;
    if (first == nullptr) first = &other;
    if (!SameSite(first->site, other.site)) {
      End(absl::StrCat("block ", ToString(current.block), ": threads wait at different barriers, ",
                       ToString(first->site), " and ", ToString(other.site), Waits()));
    }
  }
  if (first == nullptr) return false;
  for (unsigned i = 0; i < num_threads_; ++i) {
    if (thread(i).state == State::kAtBlockBarrier) thread(i).state = State::kReady;
  }
  ++clocks_[set_].block.turn;
  return true;
}

bool Block::Together(const DeviceThread& a, const DeviceThread& b) {
  return a.mask == b.mask && a.operation == b.operation && SameSite(a.site, b.site);
}

void Block::FailIfGone(const DeviceThread& waiting, unsigned i) const {
  if (i < num_threads_ && thread(i).state != State::kFinished) return;
  End(absl::StrCat(ToString(waiting.site), ": thread ", ToString(waiting.index), " of block ",
                   ToString(current.block), ": ", MaskText(waiting.mask), " names lane ", i % kWarp,
                   ", which ",
                   i < num_threads_ ? "has left the kernel" : "the block does not have"));
}

void Block::FailApart(const DeviceThread& a, const DeviceThread& b) const {
  End(absl::StrCat("block ", ToString(current.block), ": lanes of one mask wait apart, at ",
                   ToString(a.site), " (", MaskText(a.mask), ") and at ", ToString(b.site), " (",
                   MaskText(b.mask), ")"));
}

void Block::FailDeadlock() const {
  for (unsigned i = 0; i < num_threads_; ++i) {
    const DeviceThread& waiting = thread(i);
    if (waiting.state != State::kAtWarp) continue;
    const unsigned first = i / kWarp * kWarp;
    for (unsigned lane = 0; lane < kWarp; ++lane) {
      if (!Names(waiting.mask, lane)) continue;
      FailIfGone(waiting, first + lane);
      const DeviceThread& other = thread(first + lane);
      if (other.state == State::kAtWarp && !Together(waiting, other)) FailApart(waiting, other);
    }
  }
  End(absl::StrCat("block ", ToString(current.block), ": deadlock, no thread can go on", Waits()));
}

std::string Block::PlaceOf(unsigned i) const {
  const DeviceThread& waiting = thread(i);
  if (waiting.state == State::kFinished) return " have left the kernel";
  return absl::StrCat(
      " at ", ToString(waiting.site), ", ",
      waiting.state == State::kAtBlockBarrier ? "block barrier" : MaskText(waiting.mask));
}

// One line for each place where threads wait: those threads, as ranges of numbers.
std::string Block::Waits() const {
  std::map<std::string, std::vector<unsigned>> places;
  for (unsigned i = 0; i < num_threads_; ++i) places[PlaceOf(i)].push_back(i);
  std::string lines;
  for (const auto& [place, numbers] : places) {
    const char* before = "\n  threads ";
    for (size_t begin = 0, end; begin < numbers.size(); begin = end) {
      end = begin + 1;
      while (end < numbers.size() && numbers[end] == numbers[end - 1] + 1) ++end;
      absl::StrAppend(&lines, before, numbers[begin]);
      if (end > begin + 1) absl::StrAppend(&lines, "-", numbers[end - 1]);
      before = ", ";
    }
    absl::StrAppend(&lines, place);
  }
  return lines;
}

}  // namespace plait::emulation
