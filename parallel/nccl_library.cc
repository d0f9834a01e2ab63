#include "parallel/nccl_library.h"

#include "absl/strings/str_cat.h"

#ifdef PLAIT_HAS_NCCL
#include <dlfcn.h>
#include <nccl.h>

#include <cstring>
#include <mutex>
#include <set>

#include "base/status_macros.h"
#endif

namespace plait {

#ifndef PLAIT_HAS_NCCL

absl::StatusOr<std::shared_ptr<NcclApi>> LoadNccl(const std::string&) {
  return absl::FailedPreconditionError(
      "NCCL: this plait was built without it; build it where nvcc and nccl.h are found "
      "(-DPLAIT_NCCL_ROOT=FOLDER)");
}

#else

namespace {

#define PLAIT_NCCL_CALLS(X) \
  X(ncclGetVersion)         \
  X(ncclGetUniqueId)        \
  X(ncclCommInitRankConfig) \
  X(ncclCommSplit)          \
  X(ncclCommGetAsyncError)  \
  X(ncclCommFinalize)       \
  X(ncclCommDestroy)        \
  X(ncclCommAbort)          \
  X(ncclGetErrorString)     \
  X(ncclGetLastError)       \
  X(ncclGroupStart)         \
  X(ncclGroupEnd)           \
  X(ncclAllGather)          \
  X(ncclReduceScatter)      \
  X(ncclAllReduce)          \
  X(ncclBroadcast)          \
  X(ncclSend)               \
  X(ncclRecv)

// The library's functions, by their own names.
struct Functions {
#define PLAIT_NCCL_POINTER(name) decltype(&::name) name = nullptr;
  PLAIT_NCCL_CALLS(PLAIT_NCCL_POINTER)
#undef PLAIT_NCCL_POINTER
};

// Both enumerations have the same order.
static_assert(static_cast<int>(NcclResult::kRemoteError) == ncclRemoteError);
static_assert(static_cast<int>(NcclResult::kInProgress) == ncclInProgress);
static_assert(ncclNumResults == 8);
static_assert(sizeof(NcclUniqueId) == sizeof(ncclUniqueId));
static_assert(NcclApi::kNoColor == NCCL_SPLIT_NOCOLOR);

NcclResult Result(ncclResult_t result) { return static_cast<NcclResult>(result); }
ncclComm_t Comm(NcclHandle handle) { return static_cast<ncclComm_t>(handle); }
cudaStream_t CudaStream(StreamHandle stream) { return static_cast<cudaStream_t>(stream); }

ncclDataType_t Type(DType dtype) {
  switch (dtype) {
    case DType::kBf16:
      return ncclBfloat16;
    case DType::kF16:
      return ncclFloat16;
    case DType::kF32:
      return ncclFloat32;
    case DType::kF64:
      return ncclFloat64;
    case DType::kI32:
      return ncclInt32;
    case DType::kI64:
      return ncclInt64;
  }
  return ncclNumTypes;
}

std::string VersionText(int version) {
  return absl::StrCat(version / 10000, ".", version / 100 % 100, ".", version % 100);
}

class NcclLibrary final : public NcclApi {
 public:
  explicit NcclLibrary(const Functions& functions) : nccl_(functions) {}

  NcclResult GetUniqueId(NcclUniqueId& id) override {
    ncclUniqueId theirs;
    const ncclResult_t result = nccl_.ncclGetUniqueId(&theirs);
    std::memcpy(id.bytes.data(), &theirs, sizeof(theirs));
    return Result(result);
  }
  NcclResult InitRank(const NcclUniqueId& id, int ranks, int rank, const std::string& name,
                      NcclHandle& handle) override {
    ncclUniqueId theirs;
    std::memcpy(&theirs, id.bytes.data(), sizeof(theirs));
    ncclConfig_t config = Config(name);
    ncclComm_t comm = nullptr;
    const ncclResult_t result = nccl_.ncclCommInitRankConfig(&comm, ranks, theirs, rank, &config);
    handle = comm;
    return Result(result);
  }
  NcclResult Split(NcclHandle parent, int color, int key, const std::string& name,
                   NcclHandle& part) override {
    ncclConfig_t config = Config(name);
    static_assert(sizeof(NcclHandle) == sizeof(ncclComm_t));
    // Written by a thread of NCCL's.
    return Result(nccl_.ncclCommSplit(Comm(parent), color, key,
                                      reinterpret_cast<ncclComm_t*>(&part), &config));
  }
  NcclResult State(NcclHandle handle) override {
    ncclResult_t state = ncclSuccess;
    const ncclResult_t result = nccl_.ncclCommGetAsyncError(Comm(handle), &state);
    return Result(result == ncclSuccess ? state : result);
  }
  NcclResult Finalize(NcclHandle handle) override {
    return Result(nccl_.ncclCommFinalize(Comm(handle)));
  }
  NcclResult Destroy(NcclHandle handle) override {
    return Result(nccl_.ncclCommDestroy(Comm(handle)));
  }
  NcclResult Abort(NcclHandle handle) override { return Result(nccl_.ncclCommAbort(Comm(handle))); }
  std::string Describe(NcclResult result, NcclHandle handle) override {
    const char* account = handle == nullptr ? "" : nccl_.ncclGetLastError(Comm(handle));
    const char* text = nccl_.ncclGetErrorString(static_cast<ncclResult_t>(result));
    if (account == nullptr || *account == '\0') return text;
    return absl::StrCat(text, ": ", account);
  }

  NcclResult GroupStart() override { return Result(nccl_.ncclGroupStart()); }
  NcclResult GroupEnd() override { return Result(nccl_.ncclGroupEnd()); }

  NcclResult AllGather(const void* input, void* output, int64_t count, DType dtype,
                       NcclHandle handle, StreamHandle stream) override {
    return Result(nccl_.ncclAllGather(input, output, static_cast<size_t>(count), Type(dtype),
                                      Comm(handle), CudaStream(stream)));
  }
  NcclResult ReduceScatterSum(const void* input, void* output, int64_t count, DType dtype,
                              NcclHandle handle, StreamHandle stream) override {
    return Result(nccl_.ncclReduceScatter(input, output, static_cast<size_t>(count), Type(dtype),
                                          ncclSum, Comm(handle), CudaStream(stream)));
  }
  NcclResult AllReduceSum(void* buffer, int64_t count, DType dtype, NcclHandle handle,
                          StreamHandle stream) override {
    return Result(nccl_.ncclAllReduce(buffer, buffer, static_cast<size_t>(count), Type(dtype),
                                      ncclSum, Comm(handle), CudaStream(stream)));
  }
  NcclResult Broadcast(void* buffer, int64_t count, DType dtype, int root, NcclHandle handle,
                       StreamHandle stream) override {
    return Result(nccl_.ncclBroadcast(buffer, buffer, static_cast<size_t>(count), Type(dtype), root,
                                      Comm(handle), CudaStream(stream)));
  }
  NcclResult Send(const void* buffer, int64_t count, DType dtype, int peer, NcclHandle handle,
                  StreamHandle stream) override {
    return Result(nccl_.ncclSend(buffer, static_cast<size_t>(count), Type(dtype), peer,
                                 Comm(handle), CudaStream(stream)));
  }
  NcclResult Receive(void* buffer, int64_t count, DType dtype, int peer, NcclHandle handle,
                     StreamHandle stream) override {
    return Result(nccl_.ncclRecv(buffer, static_cast<size_t>(count), Type(dtype), peer,
                                 Comm(handle), CudaStream(stream)));
  }

 private:
  ncclConfig_t Config(const std::string& name) {
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    const std::lock_guard lock(mutex_);
    config.commName = names_.insert(name).first->c_str();
    return config;
  }

  const Functions nccl_;
  std::mutex mutex_;
  std::set<std::string> names_;  // NCCL keeps pointers to them
};

}  // namespace

absl::StatusOr<std::shared_ptr<NcclApi>> LoadNccl(const std::string& file) {
  // Never closed: NCCL has threads of its own.
  void* const library = dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    return absl::FailedPreconditionError(
        absl::StrCat("NCCL: ", dlerror(), "; install it or add its folder to LD_LIBRARY_PATH"));
  }
  Functions functions;
#define PLAIT_NCCL_LOOK_UP(name)                                                           \
  functions.name = reinterpret_cast<decltype(&::name)>(dlsym(library, #name));             \
  if (functions.name == nullptr) {                                                         \
    return absl::FailedPreconditionError(absl::StrCat("NCCL: ", file, " has no ", #name)); \
  }
  PLAIT_NCCL_CALLS(PLAIT_NCCL_LOOK_UP)
#undef PLAIT_NCCL_LOOK_UP
  int version = 0;
  if (functions.ncclGetVersion(&version) != ncclSuccess ||
      version < NCCL_VERSION_CODE / 100 * 100) {
    return absl::FailedPreconditionError(
        absl::StrCat("NCCL: ", file, " is version ", VersionText(version), ", older than the ",
                     VersionText(NCCL_VERSION_CODE), " that plait was built with"));
  }
  return std::make_shared<NcclLibrary>(functions);
}

#endif

}  // namespace plait
