#include "checkpoint/tensor_transfer.h"

#include <algorithm>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <numeric>
#include <thread>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/allocator.h"
#include "base/check.h"
#include "base/digest.h"
#include "base/exit_code.h"
#include "base/float_conversion.h"
#include "base/status_macros.h"
#include "base/tensor.h"
#include "parallel/host_collectives.h"
#include "parallel/status_agreement.h"

namespace plait {
namespace {

constexpr int64_t kPieceBytes = 2 << 20;
constexpr int64_t kDigestWords = 2;

int64_t ElementsOf(const SourceTensor& source) {
  return std::accumulate(source.shape.begin(), source.shape.end(), int64_t{1},
                         std::multiplies<int64_t>());
}

int64_t BytesOf(const SourceTensor& source) {
  return ElementsOf(source) * BitsOf(source.dtype) / 8;
}

// Sources that one target needs, or that one source's copy needs, are of one group: the smallest
// index in it stands for it.
std::vector<size_t> GroupOfSource(const TensorPlan& plan, size_t sources) {
  std::vector<size_t> parent(sources);
  std::iota(parent.begin(), parent.end(), size_t{0});
  const auto root = [&parent](size_t i) {
    while (parent[i] != i) i = parent[i] = parent[parent[i]];
    return i;
  };
  const auto join = [&](size_t a, size_t b) {
    a = root(a);
    b = root(b);
    parent[std::max(a, b)] = std::min(a, b);
  };
  for (const PlannedTensor& target : plan.targets) {
    for (const TensorSegment& segment : target.segments) {
      join(target.segments[0].source, segment.source);
    }
  }
  for (const TensorPlan::Copy& copy : plan.copies) join(copy.source, copy.original);
  for (size_t i = 0; i < sources; ++i) parent[i] = root(i);
  return parent;
}

// The digest of a tensor whose elements pass by in order.
class RunningDigest {
 public:
  void Add(int64_t begin, int64_t count, const void* data, size_t bytes) {
    PLAIT_CHECK_EQ(begin, next_);
    next_ += count;
    stream_.Add(data, bytes);
  }
  std::string Hex() const { return stream_.Hex(); }

 private:
  DigestStream stream_;
  int64_t next_ = 0;
};

// Writes what is handed to it on a thread of its own, in that order.
class WritingThread {
 public:
  explicit WritingThread(TensorWriter& writer) : writer_(writer), thread_([this] { Run(); }) {}
  ~WritingThread() { Finish().IgnoreError(); }

  // Waits while too much is under way. The error of an earlier one.
  absl::Status Write(size_t target, int64_t begin, int64_t count,
                     std::shared_ptr<const void> data) {
    return Add({target, begin, count, std::move(data), ""});
  }
  absl::Status End(size_t target, const std::string& digest) {
    return Add({target, 0, 0, nullptr, digest});
  }
  // Waits until everything is written.
  absl::Status Finish() {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      finished_ = true;
      changed_.notify_all();
    }
    if (thread_.joinable()) thread_.join();
    return status_;
  }

 private:
  struct Item {
    size_t target = 0;
    int64_t begin = 0;
    int64_t count = 0;
    std::shared_ptr<const void> data;  // absent: the end of the target
    std::string digest;
  };
  static constexpr size_t kMostItems = 8;

  absl::Status Add(Item item) {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [this] { return items_.size() < kMostItems || !status_.ok(); });
    PLAIT_RETURN_IF_ERROR(status_);
    items_.push_back(std::move(item));
    changed_.notify_all();
    return absl::OkStatus();
  }

  void Run() {
    std::unique_lock<std::mutex> lock(mutex_);
    while (true) {
      changed_.wait(lock, [this] { return finished_ || !items_.empty(); });
      if (items_.empty()) return;
      Item item = std::move(items_.front());
      items_.pop_front();
      changed_.notify_all();
      lock.unlock();
      const absl::Status status =
          item.data ? writer_.Write(item.target, item.begin, item.count, item.data.get())
                    : writer_.End(item.target, item.digest);
      item.data.reset();
      lock.lock();
      if (!status.ok()) {
        status_ = status;
        items_.clear();
        changed_.notify_all();
        return;
      }
    }
  }

  TensorWriter& writer_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Item> items_;
  absl::Status status_;
  bool finished_ = false;
  std::thread thread_;  // last: it uses the others
};

class Transfer {
 public:
  Transfer(const TensorPlan& plan, std::span<const SourceTensor> sources, TensorReader& reader,
           WritingThread& writer, const TransferProgress& progress)
      : plan_(plan),
        sources_(sources),
        reader_(reader),
        writer_(writer),
        progress_(progress),
        digests_{std::vector<std::string>(sources.size()),
                 std::vector<std::string>(plan.targets.size())} {}

  absl::Status MakeTarget(size_t index);
  // Reads a source for its digest alone.
  absl::Status ReadSource(size_t index);
  absl::Status CompareCopy(const TensorPlan::Copy& copy);

  // Of what passed by here; empty for others.
  const TransferDigests& digests() const { return digests_; }

 private:
  // target_digest: absent where it is the source's.
  absl::Status Copy(size_t target, int64_t target_begin, const TensorSegment& segment,
                    RunningDigest* target_digest);
  // Whether the target's bytes are one source's, all of them.
  bool IsOneSource(const PlannedTensor& target) const;
  absl::StatusOr<std::shared_ptr<const void>> Read(size_t source, int64_t begin, int64_t count);

  const TensorPlan& plan_;
  std::span<const SourceTensor> sources_;
  TensorReader& reader_;
  WritingThread& writer_;
  const TransferProgress& progress_;
  TransferDigests digests_;
  std::map<size_t, std::unique_ptr<RunningDigest>> open_sources_;
  std::shared_ptr<Allocator> allocator_ = Allocator::Create();
};

// Reads and adds to the source's digest, which is done with its last element.
absl::StatusOr<std::shared_ptr<const void>> Transfer::Read(size_t source, int64_t begin,
                                                           int64_t count) {
  PLAIT_ASSIGN_OR_RETURN(std::shared_ptr<const void> data, reader_.Read(source, begin, count));
  const int64_t bytes = count * BitsOf(sources_[source].dtype) / 8;
  std::unique_ptr<RunningDigest>& digest = open_sources_[source];
  if (!digest) digest = std::make_unique<RunningDigest>();
  digest->Add(begin, count, data.get(), static_cast<size_t>(bytes));
  if (begin + count == ElementsOf(sources_[source])) {
    digests_.sources[source] = digest->Hex();
    open_sources_.erase(source);
  }
  if (progress_) PLAIT_RETURN_IF_ERROR(progress_(bytes));
  return data;
}

absl::Status Transfer::Copy(size_t target, int64_t target_begin, const TensorSegment& segment,
                            RunningDigest* target_digest) {
  const PlannedTensor& planned = plan_.targets[target];
  const SourceTensor& source = sources_[segment.source];
  const DType from = *DTypeFor(source.dtype);
  const auto width = static_cast<int64_t>(SizeOf(planned.dtype));
  const int64_t piece = kPieceBytes / std::max(width, static_cast<int64_t>(SizeOf(from)));
  for (int64_t done = 0; done < segment.elements; done += piece) {
    const int64_t count = std::min(piece, segment.elements - done);
    PLAIT_ASSIGN_OR_RETURN(std::shared_ptr<const void> data,
                           Read(segment.source, segment.source_begin + done, count));
    if (from != planned.dtype) {
      Tensor converted = Tensor::Empty(*allocator_, planned.dtype, {count});
      PLAIT_RETURN_IF_ERROR(ConvertFloats(source.name, segment.source_begin + done,
                                          {data.get(), from, count}, converted.vector()));
      data = std::shared_ptr<const void>(std::make_shared<Tensor>(converted), converted.raw());
    }
    if (target_digest != nullptr) {
      target_digest->Add(target_begin + done, count, data.get(),
                         static_cast<size_t>(count * width));
    }
    PLAIT_RETURN_IF_ERROR(writer_.Write(target, target_begin + done, count, std::move(data)));
  }
  return absl::OkStatus();
}

bool Transfer::IsOneSource(const PlannedTensor& target) const {
  const TensorSegment& first = target.segments.front();
  const SourceTensor& source = sources_[first.source];
  return target.segments.size() == 1 && first.elements > 0 &&
         first.elements == ElementsOf(source) && *DTypeFor(source.dtype) == target.dtype;
}

absl::Status Transfer::MakeTarget(size_t index) {
  const PlannedTensor& target = plan_.targets[index];
  const bool is_one_source = IsOneSource(target);
  RunningDigest digest;
  int64_t begin = 0;
  for (const TensorSegment& segment : target.segments) {
    PLAIT_RETURN_IF_ERROR(Copy(index, begin, segment, is_one_source ? nullptr : &digest));
    begin += segment.elements;
  }
  digests_.targets[index] =
      is_one_source ? digests_.sources[target.segments.front().source] : digest.Hex();
  return writer_.End(index, digests_.targets[index]);
}

absl::Status Transfer::ReadSource(size_t index) {
  const int64_t elements = ElementsOf(sources_[index]);
  if (elements == 0) digests_.sources[index] = DigestOf(nullptr, 0);
  const int64_t piece = std::max<int64_t>(1, kPieceBytes * 8 / BitsOf(sources_[index].dtype));
  for (int64_t begin = 0; begin < elements; begin += piece) {
    PLAIT_RETURN_IF_ERROR(Read(index, begin, std::min(piece, elements - begin)).status());
  }
  return absl::OkStatus();
}

absl::Status Transfer::CompareCopy(const TensorPlan::Copy& copy) {
  PLAIT_RETURN_IF_ERROR(ReadSource(copy.source));
  if (digests_.sources[copy.source] == digests_.sources[copy.original]) return absl::OkStatus();
  return WithExitCode(
      absl::FailedPreconditionError(absl::StrCat(sources_[copy.source].name, ": differs from ",
                                                 sources_[copy.original].name,
                                                 ", to which the model's configuration ties it")),
      ExitCode::kBadCheckpoint);
}

// Everybody's digests: each tensor's is known to one rank, the others add zero.
absl::Status ShareDigests(Communicator& world, std::vector<std::string>& digests) {
  Tensor words = Tensor::OnHost(DType::kI64, {static_cast<int64_t>(digests.size()) * kDigestWords});
  for (size_t i = 0; i < digests.size(); ++i) {
    const std::string bytes = absl::HexStringToBytes(digests[i]);
    std::memcpy(words.data<int64_t>() + i * kDigestWords, bytes.data(), bytes.size());
  }
  PLAIT_RETURN_IF_ERROR(AllReduceOnHost(world, words.vector(), ReduceOperation::kSum));
  for (size_t i = 0; i < digests.size(); ++i) {
    digests[i] = absl::BytesToHexString(absl::string_view(
        reinterpret_cast<const char*>(words.data<int64_t>() + i * kDigestWords), 16));
  }
  return absl::OkStatus();
}

absl::Status TransferOwn(int rank, const TensorPlan& plan, const TransferDeal& deal,
                         Transfer& transfer) {
  for (size_t i = 0; i < plan.targets.size(); ++i) {
    if (deal.rank_of_target[i] == rank) PLAIT_RETURN_IF_ERROR(transfer.MakeTarget(i));
  }
  for (const TensorPlan::Copy& copy : plan.copies) {
    if (deal.rank_of_source[copy.source] == rank) {
      PLAIT_RETURN_IF_ERROR(transfer.CompareCopy(copy));
    }
  }
  for (const size_t source : plan.ignored) {
    if (deal.rank_of_source[source] == rank) PLAIT_RETURN_IF_ERROR(transfer.ReadSource(source));
  }
  return absl::OkStatus();
}

}  // namespace

TransferDeal DealTransfer(const TensorPlan& plan, std::span<const SourceTensor> sources,
                          int ranks) {
  const std::vector<size_t> group_of_source = GroupOfSource(plan, sources.size());
  std::map<size_t, int64_t> bytes_of_group;
  int64_t left = 0;  // for this rank and those after it
  for (size_t i = 0; i < sources.size(); ++i) {
    bytes_of_group[group_of_source[i]] += BytesOf(sources[i]);
    left += BytesOf(sources[i]);
  }
  TransferDeal deal{std::vector<int>(plan.targets.size()), std::vector<int>(sources.size()),
                    std::vector<int64_t>(static_cast<size_t>(ranks))};
  // A rank's targets lie side by side: ranks that write to one file wait for each other, and files
  // written here and there take longer to reach the device.
  std::map<size_t, int> rank_of_group;
  int rank = 0;
  const auto deal_group = [&](size_t group) {
    if (!rank_of_group.emplace(group, rank).second) return;
    const int64_t bytes = bytes_of_group.at(group);
    // On to the next rank where this one comes closer to an equal part of what is left without.
    const int64_t own = deal.bytes_of_rank[rank];
    if (own > 0 && rank + 1 < ranks && (own + bytes / 2) * (ranks - rank) > left) {
      left -= own;
      rank_of_group[group] = ++rank;
    }
    deal.bytes_of_rank[rank] += bytes;
  };
  for (const PlannedTensor& target : plan.targets) {
    deal_group(group_of_source[target.segments[0].source]);
  }
  for (const size_t group : group_of_source) deal_group(group);  // what has no target
  for (size_t i = 0; i < sources.size(); ++i) {
    deal.rank_of_source[i] = rank_of_group.at(group_of_source[i]);
  }
  for (size_t i = 0; i < plan.targets.size(); ++i) {
    deal.rank_of_target[i] = deal.rank_of_source[plan.targets[i].segments[0].source];
  }
  return deal;
}

absl::StatusOr<TransferDigests> TransferTensors(Communicator& world, const TensorPlan& plan,
                                                std::span<const SourceTensor> sources,
                                                TensorReader& reader, TensorWriter& writer,
                                                const TransferProgress& progress) {
  const TransferDeal deal = DealTransfer(plan, sources, world.size());
  WritingThread thread(writer);
  Transfer transfer(plan, sources, reader, thread, progress);
  absl::Status status = TransferOwn(world.rank(), plan, deal, transfer);
  const absl::Status written = thread.Finish();
  PLAIT_RETURN_IF_ERROR(AgreeOnStatus(world, status.ok() ? written : status));
  TransferDigests digests = transfer.digests();
  PLAIT_RETURN_IF_ERROR(ShareDigests(world, digests.sources));
  PLAIT_RETURN_IF_ERROR(ShareDigests(world, digests.targets));
  return digests;
}

}  // namespace plait
