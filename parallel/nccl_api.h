// NcclApi: the calls of NCCL that plait makes, as an interface, so that aborts, timeouts and
// restarts can be driven on any machine: nccl_library.h is NCCL itself,
// tests/support/fake_nccl.h moves the data of threads and fails on request.
//
// Communicators do not block (config.blocking = 0): a call may return kInProgress, and the
// communicator's State says when the work has been given to its stream. No other call may be made
// on it before. Calls on one communicator come from one thread at a time, except Abort.
#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "base/device_runtime.h"
#include "base/dtype.h"

namespace plait {

// A communicator, as NCCL names it.
using NcclHandle = void*;

// What one rank makes and all ranks of a communicator begin with.
struct NcclUniqueId {
  std::array<char, 128> bytes{};
};

enum class NcclResult {
  kSuccess,
  kUnhandledCudaError,
  kSystemError,
  kInternalError,
  kInvalidArgument,
  kInvalidUsage,
  kRemoteError,  // another process went away, or the network
  kInProgress,
};

constexpr bool IsError(NcclResult result) {
  return result != NcclResult::kSuccess && result != NcclResult::kInProgress;
}

class NcclApi {
 public:
  // For a rank that belongs to no part of a Split.
  static constexpr int kNoColor = -1;

  virtual ~NcclApi() = default;

  virtual NcclResult GetUniqueId(NcclUniqueId& id) = 0;
  // Collective over the ranks that have the id, on the calling thread's current device. `handle`
  // is set on return, and ready when its State is kSuccess.
  virtual NcclResult InitRank(const NcclUniqueId& id, int ranks, int rank, const std::string& name,
                              NcclHandle& handle) = 0;
  // Collective over the parent: colors from 0, parts ordered by key, then rank. `part` is set by
  // the time the parent's State is kSuccess (never for kNoColor), which it must live to see.
  virtual NcclResult Split(NcclHandle parent, int color, int key, const std::string& name,
                           NcclHandle& part) = 0;
  // Of the last call, or what went wrong since.
  virtual NcclResult State(NcclHandle handle) = 0;
  // Begins to end the communicator, once its work is done; then State, then Destroy.
  virtual NcclResult Finalize(NcclHandle handle) = 0;
  virtual NcclResult Destroy(NcclHandle handle) = 0;
  // Ends the communicator and the work that it still does on the device, on this rank alone.
  virtual NcclResult Abort(NcclHandle handle) = 0;
  // In words, with NCCL's own account of its last error.
  virtual std::string Describe(NcclResult result, NcclHandle handle) = 0;

  // Calls between them, of this thread, are one: they may wait for each other.
  virtual NcclResult GroupStart() = 0;
  virtual NcclResult GroupEnd() = 0;

  // Counts are elements: of `input` in AllGather, of `output` in ReduceScatter. Sums are in an
  // order of NCCL's own, bf16 rounded at every addition.
  virtual NcclResult AllGather(const void* input, void* output, int64_t count, DType dtype,
                               NcclHandle handle, StreamHandle stream) = 0;
  virtual NcclResult ReduceScatterSum(const void* input, void* output, int64_t count, DType dtype,
                                      NcclHandle handle, StreamHandle stream) = 0;
  virtual NcclResult AllReduceSum(void* buffer, int64_t count, DType dtype, NcclHandle handle,
                                  StreamHandle stream) = 0;
  virtual NcclResult Broadcast(void* buffer, int64_t count, DType dtype, int root,
                               NcclHandle handle, StreamHandle stream) = 0;
  // A send ends with its receive.
  virtual NcclResult Send(const void* buffer, int64_t count, DType dtype, int peer,
                          NcclHandle handle, StreamHandle stream) = 0;
  virtual NcclResult Receive(void* buffer, int64_t count, DType dtype, int peer, NcclHandle handle,
                             StreamHandle stream) = 0;
};

}  // namespace plait
