#include "tests/support/fake_nccl.h"

#include <algorithm>
#include <condition_variable>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/stream.h"
#include "base/tensor.h"

namespace plait {
namespace {

enum class Kind { kAllGather, kReduceScatter, kAllReduce, kBroadcast, kSplit, kSend, kReceive };

bool IsPair(Kind kind) { return kind == Kind::kSend || kind == Kind::kReceive; }

}  // namespace

struct FakeNccl::Call {
  Kind kind;
  const void* input = nullptr;
  void* output = nullptr;
  int64_t count = 0;
  DType dtype = DType::kF32;
  int peer = -1;  // or root
  int color = 0;
  int key = 0;
  NcclHandle* part = nullptr;
  StreamHandle stream = nullptr;
  bool done = false;
};

struct FakeNccl::Submission {
  std::vector<Call> calls;
  bool done = false;
};

struct FakeNccl::Member {
  Clique* clique = nullptr;
  int rank = 0;
  int world_rank = 0;
  NcclResult error = NcclResult::kSuccess;
  bool closing = false;
  bool gone = false;  // destroyed or aborted
  std::deque<std::shared_ptr<Submission>> queue;
};

struct FakeNccl::Clique {
  std::vector<Member*> members;  // by rank; null: not connected yet

  bool complete() const {
    return std::find(members.begin(), members.end(), nullptr) == members.end();
  }
};

struct FakeNccl::Shared {
  mutable std::mutex mutex;
  std::condition_variable changed;
  std::map<StreamHandle, std::vector<std::shared_ptr<Submission>>> by_stream;  // not done
};

class FakeNccl::StreamEvent final : public PendingWork {
 public:
  StreamEvent(std::shared_ptr<Shared> shared, std::vector<std::shared_ptr<Submission>> before)
      : shared_(std::move(shared)), before_(std::move(before)) {}

  absl::Status Wait() override {
    std::unique_lock lock(shared_->mutex);
    shared_->changed.wait(lock, [&] { return Done(); });
    return absl::OkStatus();
  }
  bool Test() override {
    const std::lock_guard lock(shared_->mutex);
    return Done();
  }
  PendingWork* DeviceWork() override { return this; }

 private:
  bool Done() const {
    return std::all_of(before_.begin(), before_.end(), [](const auto& one) { return one->done; });
  }

  std::shared_ptr<Shared> shared_;
  std::vector<std::shared_ptr<Submission>> before_;
};

class FakeNccl::StreamRuntime final : public DeviceRuntime {
 public:
  StreamRuntime(std::shared_ptr<DeviceRuntime> device, std::shared_ptr<Shared> shared)
      : device_(std::move(device)), shared_(std::move(shared)) {}

  std::string DeviceName() const override { return device_->DeviceName(); }
  size_t MemoryBytes() const override { return device_->MemoryBytes(); }
  absl::Status MakeCurrent() override { return device_->MakeCurrent(); }
  absl::StatusOr<std::shared_ptr<PendingWork>> RecordTime(StreamHandle stream) override {
    return device_->RecordTime(stream);
  }
  absl::StatusOr<double> SecondsBetween(PendingWork& begin, PendingWork& end) override {
    return device_->SecondsBetween(begin, end);
  }
  void* Allocate(size_t bytes) override { return device_->Allocate(bytes); }
  void Free(void* block) override { device_->Free(block); }
  void Use(void* block, size_t bytes) override { device_->Use(block, bytes); }
  void* AllocatePinned(size_t bytes) override { return device_->AllocatePinned(bytes); }
  void FreePinned(void* block) override { device_->FreePinned(block); }
  absl::StatusOr<StreamHandle> CreateStream(StreamPriority priority) override {
    return device_->CreateStream(priority);
  }
  absl::Status Copy(void* to, const void* from, size_t bytes, StreamHandle stream) override {
    return device_->Copy(to, from, bytes, stream);
  }
  absl::Status FillZero(void* to, size_t bytes, StreamHandle stream) override {
    return device_->FillZero(to, bytes, stream);
  }
  absl::StatusOr<std::shared_ptr<PendingWork>> Record(StreamHandle stream) override {
    const std::lock_guard lock(shared_->mutex);
    auto& before = shared_->by_stream[stream];
    std::erase_if(before, [](const auto& one) { return one->done; });
    return std::make_shared<StreamEvent>(shared_, before);
  }
  absl::Status WaitFor(StreamHandle, PendingWork& work) override { return work.Wait(); }
  absl::Status Synchronize(StreamHandle stream) override { return (*Record(stream))->Wait(); }

 private:
  std::shared_ptr<DeviceRuntime> device_;
  std::shared_ptr<Shared> shared_;
};

FakeNccl::FakeNccl(std::shared_ptr<DeviceRuntime> runtime, Completion completion,
                   const Faults& faults)
    : device_(std::move(runtime)),
      completion_(completion),
      faults_(faults),
      shared_(std::make_shared<Shared>()) {}
FakeNccl::~FakeNccl() = default;

std::shared_ptr<DeviceRuntime> FakeNccl::Runtime() const {
  return std::make_shared<StreamRuntime>(device_, shared_);
}

void FakeNccl::BreakRank(int rank, NcclResult error) {
  const std::lock_guard lock(shared_->mutex);
  for (const auto& member : members_) {
    if (member->world_rank == rank) member->error = error;
  }
}

void FakeNccl::TakeAwayRank(int rank) {
  const std::lock_guard lock(shared_->mutex);
  for (const auto& member : members_) {
    if (member->world_rank == rank || member->gone) continue;
    for (const Member* other : member->clique->members) {
      if (other->world_rank == rank) member->error = NcclResult::kRemoteError;
    }
  }
}

int FakeNccl::num_aborts() const {
  const std::lock_guard lock(shared_->mutex);
  return num_aborts_;
}
int FakeNccl::num_open() const {
  const std::lock_guard lock(shared_->mutex);
  return static_cast<int>(std::count_if(members_.begin(), members_.end(),
                                        [](const auto& member) { return !member->gone; }));
}
int FakeNccl::num_misuses() const {
  const std::lock_guard lock(shared_->mutex);
  return num_misuses_;
}

FakeNccl::Member* FakeNccl::Find(NcclHandle handle) {
  for (const auto& member : members_) {
    if (member.get() == handle && !member->gone) return member.get();
  }
  ++num_misuses_;
  return nullptr;
}

FakeNccl::Member& FakeNccl::AddMember(Clique& clique, int rank, int world_rank) {
  Member& member = *members_.emplace_back(std::make_unique<Member>());
  member.clique = &clique;
  member.rank = rank;
  member.world_rank = world_rank;
  clique.members[static_cast<size_t>(rank)] = &member;
  return member;
}

NcclResult FakeNccl::GetUniqueId(NcclUniqueId& id) {
  const std::lock_guard lock(shared_->mutex);
  if (faults_.no_unique_id) return NcclResult::kSystemError;
  const std::string text = absl::StrCat("id ", ++num_ids_);
  std::copy(text.begin(), text.end(), id.bytes.begin());
  return NcclResult::kSuccess;
}

NcclResult FakeNccl::InitRank(const NcclUniqueId& id, int ranks, int rank, const std::string&,
                              NcclHandle& handle) {
  const std::lock_guard lock(shared_->mutex);
  Clique*& clique = by_id_[std::string(id.bytes.begin(), id.bytes.end())];
  if (clique == nullptr) {
    clique = cliques_.emplace_back(std::make_unique<Clique>()).get();
    clique->members.resize(static_cast<size_t>(ranks));
  }
  if (rank == faults_.rank_that_never_connects) {
    auto nowhere = std::make_unique<Clique>();
    nowhere->members.resize(static_cast<size_t>(ranks));
    handle = &AddMember(*cliques_.emplace_back(std::move(nowhere)), rank, rank);
    return NcclResult::kInProgress;
  }
  handle = &AddMember(*clique, rank, rank);
  return NcclResult::kInProgress;
}

NcclResult FakeNccl::Split(NcclHandle parent, int color, int key, const std::string&,
                           NcclHandle& part) {
  return Submit(parent, {.kind = Kind::kSplit, .color = color, .key = key, .part = &part});
}

NcclResult FakeNccl::State(NcclHandle handle) {
  const std::lock_guard lock(shared_->mutex);
  const Member* member = Find(handle);
  if (member == nullptr) return NcclResult::kInvalidArgument;
  if (member->error != NcclResult::kSuccess) return member->error;
  if (!member->clique->complete()) return NcclResult::kInProgress;
  if (member->closing && faults_.never_closes) return NcclResult::kInProgress;
  const auto must_be_done = [&](const auto& submission) {
    return completion_ == Completion::kDone || member->closing ||
           submission->calls[0].kind == Kind::kSplit;
  };
  const bool busy = std::any_of(member->queue.begin(), member->queue.end(), must_be_done);
  return busy ? NcclResult::kInProgress : NcclResult::kSuccess;
}

NcclResult FakeNccl::Finalize(NcclHandle handle) {
  const std::lock_guard lock(shared_->mutex);
  Member* member = Find(handle);
  if (member == nullptr) return NcclResult::kInvalidArgument;
  member->closing = true;
  return NcclResult::kInProgress;
}

NcclResult FakeNccl::Destroy(NcclHandle handle) {
  const std::lock_guard lock(shared_->mutex);
  Member* member = Find(handle);
  if (member == nullptr) return NcclResult::kInvalidArgument;
  Drop(*member);
  return NcclResult::kSuccess;
}

NcclResult FakeNccl::Abort(NcclHandle handle) {
  const std::lock_guard lock(shared_->mutex);
  Member* member = Find(handle);
  if (member == nullptr) return NcclResult::kInvalidArgument;
  ++num_aborts_;
  Drop(*member);
  return NcclResult::kSuccess;
}

void FakeNccl::Drop(Member& member) {
  member.gone = true;
  for (const auto& submission : member.queue) submission->done = true;
  member.queue.clear();
  shared_->changed.notify_all();
}

std::string FakeNccl::Describe(NcclResult result, NcclHandle) {
  switch (result) {
    case NcclResult::kSystemError:
      return "unhandled system error";
    case NcclResult::kRemoteError:
      return "remote process exited or there was a network error";
    default:
      return absl::StrCat("result ", static_cast<int>(result));
  }
}

NcclResult FakeNccl::GroupStart() {
  const std::lock_guard lock(shared_->mutex);
  groups_[std::this_thread::get_id()];
  return NcclResult::kSuccess;
}

NcclResult FakeNccl::GroupEnd() {
  const std::lock_guard lock(shared_->mutex);
  const auto group = groups_.find(std::this_thread::get_id());
  if (group == groups_.end()) return NcclResult::kInvalidUsage;
  const auto calls = std::move(group->second);
  groups_.erase(group);
  // All of one communicator and stream, as plait's are.
  if (calls.empty()) return NcclResult::kSuccess;
  std::vector<Call> together;
  for (const auto& [member, call] : calls) {
    PLAIT_CHECK(member == calls[0].first);
    together.push_back(call);
  }
  GiveTo(*calls[0].first, std::move(together));
  return NcclResult::kInProgress;
}

NcclResult FakeNccl::Submit(NcclHandle handle, const Call& call) {
  const std::lock_guard lock(shared_->mutex);
  Member* member = Find(handle);
  if (member == nullptr) return NcclResult::kInvalidArgument;
  if (member->error != NcclResult::kSuccess) return member->error;
  if (call.peer >= static_cast<int>(member->clique->members.size()) ||
      (IsPair(call.kind) && call.peer == member->rank)) {
    return NcclResult::kInvalidArgument;
  }
  const auto group = groups_.find(std::this_thread::get_id());
  if (group != groups_.end()) {
    group->second.emplace_back(member, call);
    return NcclResult::kSuccess;
  }
  GiveTo(*member, {call});
  return NcclResult::kInProgress;
}

void FakeNccl::GiveTo(Member& member, std::vector<Call> calls) {
  const StreamHandle stream = calls[0].stream;
  auto submission = std::make_shared<Submission>(Submission{std::move(calls)});
  member.queue.push_back(submission);
  shared_->by_stream[stream].push_back(std::move(submission));
  while (RunCollective(*member.clique) || RunPairs(*member.clique)) {
  }
  shared_->changed.notify_all();
}

bool FakeNccl::RunCollective(Clique& clique) {
  if (!clique.complete()) return false;
  std::vector<Call*> calls;
  for (Member* member : clique.members) {
    if (member->queue.empty()) return false;
    calls.push_back(&member->queue.front()->calls[0]);
    if (IsPair(calls.back()->kind) || calls.back()->kind != calls[0]->kind) return false;
  }
  const auto ranks = static_cast<int64_t>(calls.size());
  const Call& first = *calls[0];
  switch (first.kind) {
    case Kind::kAllGather:
      for (const Call* to : calls) {
        for (int64_t from = 0; from < ranks; ++from) {
          Move(static_cast<char*>(to->output) +
                   from * first.count * static_cast<int64_t>(SizeOf(first.dtype)),
               calls[static_cast<size_t>(from)]->input, first.count, first.dtype);
        }
      }
      break;
    case Kind::kReduceScatter:
      for (int64_t rank = 0; rank < ranks; ++rank) {
        const Tensor sum = Sum(calls, rank * first.count, rank);
        Move(calls[static_cast<size_t>(rank)]->output, sum.raw(), first.count, first.dtype);
      }
      break;
    case Kind::kAllReduce: {
      const Tensor sum = Sum(calls, 0, 0);
      for (const Call* to : calls) Move(to->output, sum.raw(), first.count, first.dtype);
      break;
    }
    case Kind::kBroadcast:
      for (const Call* to : calls) {
        Move(to->output, calls[static_cast<size_t>(first.peer)]->input, first.count, first.dtype);
      }
      break;
    default:
      MakeParts(clique, calls);
  }
  for (Member* member : clique.members) {
    member->queue.front()->done = true;
    member->queue.pop_front();
  }
  return true;
}

bool FakeNccl::RunPairs(Clique& clique) {
  bool moved = false;
  for (Member* sender : clique.members) {
    if (sender == nullptr || sender->queue.empty()) continue;
    for (Call& send : sender->queue.front()->calls) {
      if (send.kind != Kind::kSend || send.done) continue;
      Member* receiver = clique.members[static_cast<size_t>(send.peer)];
      if (receiver == nullptr || receiver->queue.empty()) continue;
      std::vector<Call>& calls = receiver->queue.front()->calls;
      const auto receive = std::find_if(calls.begin(), calls.end(), [&](const Call& call) {
        return call.kind == Kind::kReceive && !call.done && call.peer == sender->rank;
      });
      if (receive == calls.end()) continue;
      PLAIT_CHECK_EQ(receive->count, send.count);
      Move(receive->output, send.input, send.count, send.dtype);
      send.done = receive->done = moved = true;
    }
  }
  for (Member* member : clique.members) {
    if (member == nullptr || member->queue.empty()) continue;
    const std::vector<Call>& calls = member->queue.front()->calls;
    if (!std::all_of(calls.begin(), calls.end(), [](const Call& call) { return call.done; })) {
      continue;
    }
    member->queue.front()->done = true;
    member->queue.pop_front();
  }
  return moved;
}

void FakeNccl::Move(void* to, const void* from, int64_t count, DType dtype) {
  if (to == from || count == 0) return;
  PLAIT_CHECK(device_->Copy(to, from, static_cast<size_t>(count) * SizeOf(dtype), nullptr).ok());
}

// Of the elements from `begin` on, as a ring does it: the rank whose part it is comes last.
Tensor FakeNccl::Sum(const std::vector<Call*>& calls, int64_t begin, int64_t last) {
  const Call& first = *calls[0];
  PLAIT_CHECK(first.dtype == DType::kF32 || first.dtype == DType::kF64);
  Tensor sum = Tensor::OnHost(first.dtype, {first.count});
  Tensor addend = Tensor::OnHost(first.dtype, {first.count});
  const auto ranks = static_cast<int64_t>(calls.size());
  for (int64_t step = 1; step <= ranks; ++step) {
    const Call& call = *calls[static_cast<size_t>((last + step) % ranks)];
    Move(addend.raw(),
         static_cast<const char*>(call.input) + begin * static_cast<int64_t>(SizeOf(first.dtype)),
         first.count, first.dtype);
    for (int64_t i = 0; i < first.count; ++i) {
      if (first.dtype == DType::kF32) sum.data<float>()[i] += addend.data<float>()[i];
      if (first.dtype == DType::kF64) sum.data<double>()[i] += addend.data<double>()[i];
    }
  }
  return sum;
}

void FakeNccl::MakeParts(Clique& clique, const std::vector<Call*>& calls) {
  std::map<int, std::vector<std::pair<int, size_t>>> parts;  // color -> (key, rank)
  for (size_t rank = 0; rank < calls.size(); ++rank) {
    if (calls[rank]->color == kNoColor) continue;
    parts[calls[rank]->color].emplace_back(calls[rank]->key, rank);
  }
  for (auto& [color, ranks] : parts) {
    std::sort(ranks.begin(), ranks.end());
    Clique& part = *cliques_.emplace_back(std::make_unique<Clique>());
    part.members.resize(ranks.size());
    for (size_t i = 0; i < ranks.size(); ++i) {
      const size_t rank = ranks[i].second;
      *calls[rank]->part = &AddMember(part, static_cast<int>(i), clique.members[rank]->world_rank);
    }
  }
}

NcclResult FakeNccl::AllGather(const void* input, void* output, int64_t count, DType dtype,
                               NcclHandle handle, StreamHandle stream) {
  return Submit(handle, {.kind = Kind::kAllGather,
                         .input = input,
                         .output = output,
                         .count = count,
                         .dtype = dtype,
                         .stream = stream});
}
NcclResult FakeNccl::ReduceScatterSum(const void* input, void* output, int64_t count, DType dtype,
                                      NcclHandle handle, StreamHandle stream) {
  return Submit(handle, {.kind = Kind::kReduceScatter,
                         .input = input,
                         .output = output,
                         .count = count,
                         .dtype = dtype,
                         .stream = stream});
}
NcclResult FakeNccl::AllReduceSum(void* buffer, int64_t count, DType dtype, NcclHandle handle,
                                  StreamHandle stream) {
  return Submit(handle, {.kind = Kind::kAllReduce,
                         .input = buffer,
                         .output = buffer,
                         .count = count,
                         .dtype = dtype,
                         .stream = stream});
}
NcclResult FakeNccl::Broadcast(void* buffer, int64_t count, DType dtype, int root,
                               NcclHandle handle, StreamHandle stream) {
  return Submit(handle, {.kind = Kind::kBroadcast,
                         .input = buffer,
                         .output = buffer,
                         .count = count,
                         .dtype = dtype,
                         .peer = root,
                         .stream = stream});
}
NcclResult FakeNccl::Send(const void* buffer, int64_t count, DType dtype, int peer,
                          NcclHandle handle, StreamHandle stream) {
  return Submit(handle, {.kind = Kind::kSend,
                         .input = buffer,
                         .count = count,
                         .dtype = dtype,
                         .peer = peer,
                         .stream = stream});
}
NcclResult FakeNccl::Receive(void* buffer, int64_t count, DType dtype, int peer, NcclHandle handle,
                             StreamHandle stream) {
  return Submit(handle, {.kind = Kind::kReceive,
                         .output = buffer,
                         .count = count,
                         .dtype = dtype,
                         .peer = peer,
                         .stream = stream});
}

}  // namespace plait
