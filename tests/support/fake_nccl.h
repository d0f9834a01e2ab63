// FakeNccl: NCCL among the threads of a process, for the memory of the emulated device. All ranks
// share one. Calls match as NCCL's do: in the order of each communicator, a send with the first
// receive of its peer; one that does not match waits for ever, as does one whose peer aborts. Ranks
// are told apart by their number in the communicator that was connected first. It fails on request.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "base/tensor.h"
#include "parallel/nccl_api.h"

namespace plait {

class FakeNccl final : public NcclApi {
 public:
  // When a call leaves kInProgress.
  enum class Completion {
    kDone,     // when its work is done: what comes after it on the stream may begin
    kOnStream  // at once; events of Runtime() tell when the work is done. Kernels of the emulation
               // do not wait for it.
  };
  struct Faults {
    bool no_unique_id = false;
    int rank_that_never_connects = -1;  // its InitRank does nothing
    bool never_closes = false;          // Finalize stays in progress
  };

  FakeNccl(std::shared_ptr<DeviceRuntime> runtime, Completion completion, const Faults& faults);
  explicit FakeNccl(std::shared_ptr<DeviceRuntime> runtime)
      : FakeNccl(std::move(runtime), Completion::kDone, Faults()) {}
  ~FakeNccl() override;

  // The emulated device, whose events wait for the work given to the fake.
  std::shared_ptr<DeviceRuntime> Runtime() const;

  // All communicators of the rank fail with this from now on.
  void BreakRank(int rank, NcclResult error);
  // The rank goes away: others fail with kRemoteError, in all communicators that they share.
  void TakeAwayRank(int rank);

  int num_aborts() const;
  // Communicators that are neither destroyed nor aborted.
  int num_open() const;
  // Calls on communicators that were.
  int num_misuses() const;

  NcclResult GetUniqueId(NcclUniqueId& id) override;
  NcclResult InitRank(const NcclUniqueId& id, int ranks, int rank, const std::string& name,
                      NcclHandle& handle) override;
  NcclResult Split(NcclHandle parent, int color, int key, const std::string& name,
                   NcclHandle& part) override;
  NcclResult State(NcclHandle handle) override;
  NcclResult Finalize(NcclHandle handle) override;
  NcclResult Destroy(NcclHandle handle) override;
  NcclResult Abort(NcclHandle handle) override;
  std::string Describe(NcclResult result, NcclHandle handle) override;
  NcclResult GroupStart() override;
  NcclResult GroupEnd() override;
  NcclResult AllGather(const void* input, void* output, int64_t count, DType dtype,
                       NcclHandle handle, StreamHandle stream) override;
  NcclResult ReduceScatterSum(const void* input, void* output, int64_t count, DType dtype,
                              NcclHandle handle, StreamHandle stream) override;
  NcclResult AllReduceSum(void* buffer, int64_t count, DType dtype, NcclHandle handle,
                          StreamHandle stream) override;
  NcclResult Broadcast(void* buffer, int64_t count, DType dtype, int root, NcclHandle handle,
                       StreamHandle stream) override;
  NcclResult Send(const void* buffer, int64_t count, DType dtype, int peer, NcclHandle handle,
                  StreamHandle stream) override;
  NcclResult Receive(void* buffer, int64_t count, DType dtype, int peer, NcclHandle handle,
                     StreamHandle stream) override;

 private:
  struct Member;      // a communicator of one rank
  struct Clique;      // the same of all of them
  struct Call;        // one operation
  struct Submission;  // calls that were given together
  struct Shared;      // what events outlive the fake with
  class StreamEvent;
  class StreamRuntime;

  NcclResult Submit(NcclHandle handle, const Call& call);
  // With the lock held:
  Member* Find(NcclHandle handle);  // null, and counted, where it is not open
  Member& AddMember(Clique& clique, int rank, int world_rank);
  void GiveTo(Member& member, std::vector<Call> calls);
  // Whether something moved.
  bool RunCollective(Clique& clique);
  bool RunPairs(Clique& clique);
  void Move(void* to, const void* from, int64_t count, DType dtype);
  Tensor Sum(const std::vector<Call*>& calls, int64_t begin, int64_t last);
  void MakeParts(Clique& clique, const std::vector<Call*>& calls);
  void Drop(Member& member);

  const std::shared_ptr<DeviceRuntime> device_;
  const Completion completion_;
  const Faults faults_;
  const std::shared_ptr<Shared> shared_;
  int num_ids_ = 0;
  int num_aborts_ = 0;
  int num_misuses_ = 0;
  std::vector<std::unique_ptr<Member>> members_;
  std::vector<std::unique_ptr<Clique>> cliques_;
  std::map<std::string, Clique*> by_id_;
  // Between GroupStart and GroupEnd, by thread.
  std::map<std::thread::id, std::vector<std::pair<Member*, Call>>> groups_;
};

}  // namespace plait
