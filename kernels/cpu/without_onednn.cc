// In place of onednn_*.cc in a build without oneDNN (-DPLAIT_ONEDNN=OFF): every row of it refuses.
#include "absl/status/status.h"
#include "kernels/cpu/onednn_grouped_matmul.h"
#include "kernels/cpu/onednn_matmul.h"
#include "kernels/cpu/onednn_version.h"

namespace plait::cpu {
namespace {

constexpr char kRefusal[] = "this build has no oneDNN";

absl::Status Refused() { return absl::UnimplementedError(kRefusal); }

}  // namespace

std::string OnednnVersion() { return "none"; }

std::string AcceptsOnednnBf16Matmul(const MatmulArgs&) { return kRefusal; }
std::string AcceptsOnednnF32Matmul(const MatmulArgs&) { return kRefusal; }
absl::Status OnednnMatmul(Execution&, const MatmulArgs&) { return Refused(); }

std::string AcceptsOnednnBf16GroupedMatmul(const GroupedMatmulArgs&) { return kRefusal; }
std::string AcceptsOnednnF32GroupedMatmul(const GroupedMatmulArgs&) { return kRefusal; }
absl::Status OnednnGroupedMatmul(Execution&, const GroupedMatmulArgs&) { return Refused(); }

std::string AcceptsOnednnBf16GroupedWeightGradient(const GroupedWeightGradientArgs&) {
  return kRefusal;
}
std::string AcceptsOnednnF32GroupedWeightGradient(const GroupedWeightGradientArgs&) {
  return kRefusal;
}
absl::Status OnednnGroupedWeightGradient(Execution&, const GroupedWeightGradientArgs&) {
  return Refused();
}

}  // namespace plait::cpu
