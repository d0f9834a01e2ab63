#include "parallel/mpi_communicator.h"

// The C interface alone: Open MPI's own C++ classes are another library.
#define OMPI_SKIP_MPICXX 1
#include <mpi.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/allocator.h"
#include "base/check.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "base/tensor.h"
#include "parallel/element_reduction.h"
#include "parallel/host_memory.h"

namespace plait {
namespace {

// Up to here every rank reduces everything itself; above, each its part.
constexpr int64_t kSmallReduceBytes = 16384;

absl::Status Check(int code, const char* operation) {
  if (code == MPI_SUCCESS) return absl::OkStatus();
  char text[MPI_MAX_ERROR_STRING] = "";
  int length = 0;
  MPI_Error_string(code, text, &length);
  return absl::UnavailableError(absl::StrCat(operation, ": ", text));
}

MPI_Datatype MpiType(DType dtype) {
  switch (dtype) {
    case DType::kBf16:
    case DType::kF16:
      return MPI_UINT16_T;  // moved, never reduced by MPI
    case DType::kF32:
      return MPI_FLOAT;
    case DType::kF64:
      return MPI_DOUBLE;
    case DType::kI32:
      return MPI_INT32_T;
    case DType::kI64:
      return MPI_INT64_T;
  }
  return MPI_BYTE;
}

absl::StatusOr<int> Count(int64_t elements, const char* operation) {
  if (elements <= std::numeric_limits<int>::max()) return static_cast<int>(elements);
  return absl::InvalidArgumentError(
      absl::StrCat(operation, ": ", elements,
                   " elements for one rank are more than MPI counts; use more ranks"));
}

// MPI, from initialisation to finalisation.
class Session {
 public:
  static absl::StatusOr<std::shared_ptr<Session>> Start() {
    int initialized = 0;
    MPI_Initialized(&initialized);
    if (initialized) return absl::FailedPreconditionError("MPI: was initialised before");
    int provided = 0;
    if (const int code = MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &provided);
        code != MPI_SUCCESS) {
      return Check(code, "MPI_Init_thread");
    }
    if (provided < MPI_THREAD_FUNNELED) {
      return absl::UnavailableError("MPI: does not allow a process with several threads");
    }
    PLAIT_RETURN_IF_ERROR(Check(MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN),
                                "MPI_Comm_set_errhandler"));
    return std::shared_ptr<Session>(new Session());
  }
  ~Session() { MPI_Finalize(); }
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

 private:
  Session() = default;
};

// A request under way. Its buffers belong to the caller until it is done.
class Request final : public PendingWork {
 public:
  Request(MPI_Request request, const char* operation, std::shared_ptr<CollectiveLedger> ledger)
      : request_(request), operation_(operation), ledger_(std::move(ledger)) {}

  absl::Status Wait() override {
    if (request_ == MPI_REQUEST_NULL) return status_;
    const CollectiveLedger::Waiting waiting(*ledger_);
    status_ = Check(MPI_Wait(&request_, MPI_STATUS_IGNORE), operation_);
    return status_;
  }
  bool Test() override {
    if (request_ == MPI_REQUEST_NULL) return true;
    int done = 0;
    const absl::Status status = Check(MPI_Test(&request_, &done, MPI_STATUS_IGNORE), operation_);
    if (!status.ok()) {
      status_ = status;
      request_ = MPI_REQUEST_NULL;
    }
    return done != 0 || !status.ok();
  }

 private:
  MPI_Request request_;
  const char* operation_;
  std::shared_ptr<CollectiveLedger> ledger_;
  absl::Status status_;
};

class MpiCommunicator final : public Communicator {
 public:
  // Takes `data`; makes a second one, for the comparison of calls.
  static absl::StatusOr<std::shared_ptr<Communicator>> Create(
      std::shared_ptr<Session> session, MPI_Comm data, std::string name,
      std::shared_ptr<CollectiveLedger> ledger) {
    int rank = 0, size = 0;
    MPI_Comm control = MPI_COMM_NULL, host = MPI_COMM_NULL;
    PLAIT_RETURN_IF_ERROR(
        Check(MPI_Comm_set_errhandler(data, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler"));
    PLAIT_RETURN_IF_ERROR(Check(MPI_Comm_rank(data, &rank), "MPI_Comm_rank"));
    PLAIT_RETURN_IF_ERROR(Check(MPI_Comm_size(data, &size), "MPI_Comm_size"));
    PLAIT_RETURN_IF_ERROR(Check(MPI_Comm_dup(data, &control), "MPI_Comm_dup"));
    PLAIT_RETURN_IF_ERROR(
        Check(MPI_Comm_split_type(data, MPI_COMM_TYPE_SHARED, rank, MPI_INFO_NULL, &host),
              "MPI_Comm_split_type"));
    int host_size = 0, host_rank = 0;
    MPI_Comm_size(host, &host_size);
    MPI_Comm_rank(host, &host_rank);
    if (ledger == nullptr) {
      // Without shared memory every rank's slot is its own, and reports name it alone.
      PLAIT_ASSIGN_OR_RETURN(std::shared_ptr<void> slots,
                             ShareMemory(host, sizeof(LedgerSlot) * host_size));
      const bool shared = slots != nullptr;
      if (!shared) slots = AllocateZeroed(sizeof(LedgerSlot));
      ledger =
          std::make_shared<CollectiveLedger>(std::static_pointer_cast<LedgerSlot>(slots),
                                             shared ? host_size : 1, shared ? host_rank : 0, rank);
    }
    MPI_Comm_free(&host);
    auto communicator = std::shared_ptr<MpiCommunicator>(
        new MpiCommunicator(rank, size, std::move(name), std::move(ledger)));
    communicator->session_ = std::move(session);
    communicator->data_ = data;
    communicator->control_ = control;
    communicator->one_host_ = host_size == size;
    return communicator;
  }

  ~MpiCommunicator() override {
    // Collective in MPI's words, local in fact for Open MPI and MPICH.
    if (control_ != MPI_COMM_NULL) MPI_Comm_free(&control_);
    if (data_ != MPI_COMM_NULL && data_ != MPI_COMM_WORLD) MPI_Comm_free(&data_);
  }

  void Abort(std::string_view reason, int exit_code) override {
    LogWarning(absl::StrCat("rank ", ledger().rank(),
                            " ends the job: ", absl::string_view(reason.data(), reason.size())));
    std::fflush(stderr);
    MPI_Abort(MPI_COMM_WORLD, exit_code);
    std::_Exit(exit_code);
  }

 protected:
  absl::StatusOr<Event> DoAllGather(Stream& stream, ConstVectorView input,
                                    VectorView output) override {
    PLAIT_ASSIGN_OR_RETURN(const int count, Count(input.size, "all-gather"));
    const MPI_Datatype type = MpiType(input.dtype);
    const size_t bytes = static_cast<size_t>(input.size) * SizeOf(input.dtype);
    const bool in_place = input.data == output.as<char>() + static_cast<size_t>(rank()) * bytes;
    return Launch(stream, "all-gather", [&](MPI_Request* request) {
      return MPI_Iallgather(in_place ? MPI_IN_PLACE : input.data, count, type, output.data, count,
                            type, data_, request);
    });
  }

  absl::StatusOr<Event> DoReduceScatter(Stream& stream, ConstVectorView input,
                                        VectorView output) override {
    const std::vector<int64_t> counts(static_cast<size_t>(size()), output.size);
    Tensor pieces = Tensor::OnHost(input.dtype, {input.size});
    PLAIT_ASSIGN_OR_RETURN(const Event moved,
                           DoAllToAll(stream, input, counts, pieces.vector(), counts));
    PLAIT_RETURN_IF_ERROR(moved.Synchronize());
    Reduce(ReduceOperation::kSum, pieces, output);
    return Event();
  }

  absl::StatusOr<Event> DoAllReduce(Stream& stream, VectorView buffer,
                                    ReduceOperation operation) override {
    const int64_t bytes = buffer.size * static_cast<int64_t>(SizeOf(buffer.dtype));
    if (bytes <= kSmallReduceBytes) {
      Tensor all = Tensor::OnHost(buffer.dtype, {size() * buffer.size});
      PLAIT_ASSIGN_OR_RETURN(const Event gathered, DoAllGather(stream, buffer, all.vector()));
      PLAIT_RETURN_IF_ERROR(gathered.Synchronize());
      Reduce(operation, all, buffer);
      return Event();
    }
    // Every rank reduces its part in rank order, then all get all parts.
    std::vector<int64_t> parts;
    for (int peer = 0; peer < size(); ++peer) {
      parts.push_back(buffer.size * (peer + 1) / size() - buffer.size * peer / size());
    }
    const int64_t own = parts[rank()];
    const std::vector<int64_t> own_counts(static_cast<size_t>(size()), own);
    Tensor pieces = Tensor::OnHost(buffer.dtype, {size() * own});
    PLAIT_ASSIGN_OR_RETURN(const Event moved,
                           DoAllToAll(stream, buffer, parts, pieces.vector(), own_counts));
    PLAIT_RETURN_IF_ERROR(moved.Synchronize());
    Tensor reduced = Tensor::OnHost(buffer.dtype, {own});
    Reduce(operation, pieces, reduced.vector());
    std::vector<int> counts, places;
    for (int peer = 0; peer < size(); ++peer) {
      PLAIT_ASSIGN_OR_RETURN(const int count, Count(parts[peer], "all-reduce"));
      PLAIT_ASSIGN_OR_RETURN(const int place, Count(buffer.size * peer / size(), "all-reduce"));
      counts.push_back(count);
      places.push_back(place);
    }
    const MPI_Datatype type = MpiType(buffer.dtype);
    PLAIT_RETURN_IF_ERROR(Check(MPI_Allgatherv(reduced.raw(), counts[rank()], type, buffer.data,
                                               counts.data(), places.data(), type, data_),
                                "all-reduce"));
    return Event();
  }

  absl::StatusOr<Event> DoBroadcast(Stream& stream, VectorView buffer, int root) override {
    PLAIT_ASSIGN_OR_RETURN(const int count, Count(buffer.size, "broadcast"));
    return Launch(stream, "broadcast", [&](MPI_Request* request) {
      return MPI_Ibcast(buffer.data, count, MpiType(buffer.dtype), root, data_, request);
    });
  }

  absl::StatusOr<Event> DoAllToAll(Stream& stream, ConstVectorView input,
                                   std::span<const int64_t> input_counts, VectorView output,
                                   std::span<const int64_t> output_counts) override {
    // MPI reads the counts until the operation is done.
    auto counts = std::make_shared<std::vector<int>>();
    const auto append = [&](std::span<const int64_t> sizes) -> absl::Status {
      int64_t place = 0;
      std::vector<int> places;
      for (const int64_t size : sizes) {
        PLAIT_ASSIGN_OR_RETURN(const int count, Count(size, "all-to-all"));
        PLAIT_ASSIGN_OR_RETURN(const int begin, Count(place, "all-to-all"));
        counts->push_back(count);
        places.push_back(begin);
        place += size;
      }
      counts->insert(counts->end(), places.begin(), places.end());
      return absl::OkStatus();
    };
    PLAIT_RETURN_IF_ERROR(append(input_counts));
    PLAIT_RETURN_IF_ERROR(append(output_counts));
    const MPI_Datatype type = MpiType(input.dtype);
    const int* c = counts->data();
    const int n = size();
    MPI_Request request = MPI_REQUEST_NULL;
    PLAIT_RETURN_IF_ERROR(Check(MPI_Ialltoallv(input.data, c, c + n, type, output.data, c + 2 * n,
                                               c + 3 * n, type, data_, &request),
                                "all-to-all"));
    struct WithCounts final : PendingWork {
      WithCounts(Request r, std::shared_ptr<std::vector<int>> k)
          : request(std::move(r)), kept(std::move(k)) {}
      absl::Status Wait() override { return request.Wait(); }
      bool Test() override { return request.Test(); }
      Request request;
      std::shared_ptr<std::vector<int>> kept;
    };
    return stream.Launch(
        std::make_shared<WithCounts>(Request(request, "all-to-all", shared_ledger()), counts));
  }

  absl::StatusOr<Event> DoSend(Stream& stream, ConstVectorView buffer, int peer) override {
    PLAIT_ASSIGN_OR_RETURN(const int count, Count(buffer.size, "send"));
    return Launch(stream, "send", [&](MPI_Request* request) {
      return MPI_Isend(buffer.data, count, MpiType(buffer.dtype), peer, 0, data_, request);
    });
  }
  absl::StatusOr<Event> DoReceive(Stream& stream, VectorView buffer, int peer) override {
    PLAIT_ASSIGN_OR_RETURN(const int count, Count(buffer.size, "receive"));
    return Launch(stream, "receive", [&](MPI_Request* request) {
      return MPI_Irecv(buffer.data, count, MpiType(buffer.dtype), peer, 0, data_, request);
    });
  }
  absl::Status DoBarrier() override { return Check(MPI_Barrier(data_), "barrier"); }

  absl::StatusOr<std::shared_ptr<Communicator>> DoSplit(int color, int key,
                                                        const std::string& name) override {
    MPI_Comm part = MPI_COMM_NULL;
    PLAIT_RETURN_IF_ERROR(Check(MPI_Comm_split(data_, color, key, &part), "split"));
    return Create(session_, part, name, shared_ledger());
  }

  absl::StatusOr<std::shared_ptr<void>> DoAllocateShared(size_t bytes) override {
    if (!one_host_) return nullptr;
    return ShareMemory(data_, bytes);
  }

  absl::Status ExchangeCalls(const CollectiveCall& own, std::span<CollectiveCall> all) override {
    return Check(
        MPI_Allgather(&own, sizeof(own), MPI_BYTE, all.data(), sizeof(own), MPI_BYTE, control_),
        "comparison of collectives");
  }

 private:
  MpiCommunicator(int rank, int size, std::string name, std::shared_ptr<CollectiveLedger> ledger)
      : Communicator(rank, size, std::move(name), std::move(ledger)) {}

  template <class Post>
  absl::StatusOr<Event> Launch(Stream& stream, const char* operation, const Post& post) {
    MPI_Request request = MPI_REQUEST_NULL;
    PLAIT_RETURN_IF_ERROR(Check(post(&request), operation));
    return stream.Launch(std::make_shared<Request>(request, operation, shared_ledger()));
  }

  // pieces: one part of output's size per rank, in rank order.
  void Reduce(ReduceOperation operation, const Tensor& pieces, VectorView output) const {
    std::vector<const void*> sources;
    for (int peer = 0; peer < size(); ++peer) {
      sources.push_back(pieces.Flat(peer * output.size, {output.size}).raw());
    }
    ReduceElements(operation, output.dtype, sources, output.size, output.data);
  }

  // Rank 0 of `ranks` makes the memory, the others map it. nullptr on all where one cannot.
  static absl::StatusOr<std::shared_ptr<void>> ShareMemory(MPI_Comm ranks, size_t bytes) {
    int rank = 0;
    MPI_Comm_rank(ranks, &rank);
    absl::StatusOr<HostMemory> memory = absl::UnavailableError("not made");
    if (rank == 0) memory = HostMemory::Make(bytes);
    HostMemoryHandle handle;
    if (memory.ok()) handle = memory->handle();
    PLAIT_RETURN_IF_ERROR(
        Check(MPI_Bcast(&handle, sizeof(handle), MPI_BYTE, 0, ranks), "shared memory"));
    if (rank != 0 && handle.descriptor >= 0) memory = HostMemory::Map(handle, bytes);
    int mapped = memory.ok() ? 1 : 0;
    int all_mapped = 0;
    PLAIT_RETURN_IF_ERROR(
        Check(MPI_Allreduce(&mapped, &all_mapped, 1, MPI_INT, MPI_MIN, ranks), "shared memory"));
    if (rank == 0 && memory.ok()) memory->Close();
    if (!mapped) LogWarning(absl::StrCat(memory.status().message(), "; using messages"));
    if (!all_mapped) return nullptr;
    return memory->data();
  }

  std::shared_ptr<Session> session_;
  MPI_Comm data_ = MPI_COMM_NULL;
  MPI_Comm control_ = MPI_COMM_NULL;
  bool one_host_ = false;
};

}  // namespace

bool LaunchedByMpi() {
  for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "PMI_RANK"}) {
    if (std::getenv(name) != nullptr) return true;
  }
  return false;
}

absl::StatusOr<std::shared_ptr<Communicator>> MakeMpiWorld() {
  PLAIT_ASSIGN_OR_RETURN(std::shared_ptr<Session> session, Session::Start());
  return MpiCommunicator::Create(std::move(session), MPI_COMM_WORLD, "world", nullptr);
}

absl::StatusOr<std::shared_ptr<Communicator>> MakeWorld() {
  if (LaunchedByMpi()) return MakeMpiWorld();
  return std::shared_ptr<Communicator>(MakeSingleRankCommunicator());
}

std::string MpiLibraryVersion() {
  char text[MPI_MAX_LIBRARY_VERSION_STRING] = "";
  int length = 0;
  MPI_Get_library_version(text, &length);
  const std::string version(text, static_cast<size_t>(length));
  return version.substr(0, version.find(','));  // then comes who packed it
}

}  // namespace plait
