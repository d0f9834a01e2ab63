#include "base/pinned_staging.h"

#include <cstring>
#include <utility>

#include "base/status_macros.h"

namespace plait {
namespace {

bool IsDone(const Event& event) { return event.work() == nullptr || event.work()->Test(); }

}  // namespace

absl::StatusOr<Tensor> HostCopy::Wait() {
  PLAIT_RETURN_IF_ERROR(copied_.Synchronize());
  if (pinned_ != nullptr) {
    std::memcpy(copy_.raw(), pinned_.get(), copy_.bytes());
    pinned_ = nullptr;
  }
  return std::move(copy_);
}

PinnedStaging::~PinnedStaging() {
  for (const UnderWay& copy : under_way_) (void)copy.copied.Synchronize();
}

std::shared_ptr<void> PinnedStaging::TakeBlock(size_t bytes) {
  while (!under_way_.empty() && IsDone(under_way_.front().copied)) under_way_.pop_front();
  return pinned_->Allocate(bytes);
}

absl::Status PinnedStaging::Send(Stream& stream, const void* from, void* to, size_t bytes) {
  if (bytes > kMaxBytes) return stream.Copy(to, from, bytes);
  std::shared_ptr<void> block = TakeBlock(bytes);
  std::memcpy(block.get(), from, bytes);
  PLAIT_RETURN_IF_ERROR(stream.Copy(to, block.get(), bytes));
  under_way_.push_back({stream.Record(), std::move(block)});
  return absl::OkStatus();
}

absl::StatusOr<HostCopy> PinnedStaging::Fetch(Stream& stream, const Tensor& tensor) {
  HostCopy copy;
  copy.copy_ = Tensor::OnHost(tensor.dtype(), tensor.shape());
  void* to = copy.copy_.raw();
  if (tensor.bytes() <= kMaxBytes) {
    copy.pinned_ = TakeBlock(tensor.bytes());
    to = copy.pinned_.get();
  }
  PLAIT_RETURN_IF_ERROR(stream.Copy(to, tensor.raw(), tensor.bytes()));
  copy.copied_ = stream.Record();
  if (copy.pinned_ != nullptr) under_way_.push_back({copy.copied_, copy.pinned_});
  return copy;
}

}  // namespace plait
