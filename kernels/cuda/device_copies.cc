#include "kernels/cuda/device_copies.h"

#include <string>
#include <unordered_map>
#include <utility>

#include "base/status_macros.h"

namespace plait::cuda {
namespace {

constexpr size_t kMaxCopies = 256;

// By content: the latest, and those before them.
struct DeviceCopies {
  std::unordered_map<std::string, Tensor> latest, earlier;
};

}  // namespace

absl::StatusOr<const int32_t*> DeviceCopy(Execution& execution, const int32_t* values,
                                          int64_t count) {
  auto& [latest, earlier] = execution.Cache<DeviceCopies>();
  std::string content(reinterpret_cast<const char*>(values),
                      static_cast<size_t>(count) * sizeof(int32_t));
  const auto found = latest.find(content);
  if (found != latest.end()) return found->second.data<int32_t>();
  auto node = earlier.extract(content);
  // Blocks that are freed here are handed out again in the order of the stream.
  if (latest.size() >= kMaxCopies) earlier = std::exchange(latest, {});
  if (!node.empty()) return latest.insert(std::move(node)).position->second.data<int32_t>();
  Tensor copy = execution.Empty(DType::kI32, {count});
  const auto kept = latest.emplace(std::move(content), copy).first;
  PLAIT_RETURN_IF_ERROR(execution.Send(kept->first.data(), copy));
  return copy.data<int32_t>();
}

}  // namespace plait::cuda
