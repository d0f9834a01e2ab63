#include "trainer/machine.h"

#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace plait {
namespace {

// The table. Sources, for the GPUs: peak from the datasheet; 680 TFLOP/s of matrix products is 85 %
// of the 798 measured on an H100 for 8192^3 (769 to 798 on an H200); attention: cuDNN 9.19 at 8 k
// to 32 k tokens; scan: 60 and 130 ns a token and layer of 16,384 channels with 16 states, design
// targets; memory 2.9 TB/s of 3.0 measured, 4.1 of 4.3; NCCL within a host 370 GB/s, 45 GB/s a
// 400 Gb/s link. For the CPU, one core of a 2-core Zen 5 with AVX512_BF16: measured in this
// repository (docs/benchmarks.md).
constexpr double kScanUpdates = 16384.0 * 16.0;

Machine Hopper(const std::string& name, double gemm, double memory, double gigabytes) {
  return {
      .name = name,
      .remark = "SXM; constants measured on one or published, network of one 400 Gb/s link a GPU",
      .peak_flops = 989e12,
      .gemm_flops = gemm,
      .attention_flops = 550e12,
      .scan_forward = kScanUpdates / 60e-9,
      .scan_backward = kScanUpdates / 130e-9,
      .memory_bytes_per_second = memory,
      .optimizer_bytes_per_second = 0.93 * memory,
      .memory_bytes = static_cast<int64_t>(gigabytes * 1e9),
      .ranks_per_host = 8,
      .host_bytes_per_second = 370e9,
      .network_bytes_per_second = 45e9,
      .latency_seconds = 20e-6,
      .exchange_overlap = 0.65,
      .interference = 0.06};
}

Machine Cpu(DType dtype, int64_t cores) {
  const auto n = static_cast<double>(cores);
  const double peak = dtype == DType::kBf16 ? 495e9 : 246e9;
  return {.name = "CPU",
          .remark = absl::StrCat(cores,
                                 " cores a rank; constants are those of a Zen 5 core with "
                                 "AVX512_BF16, not of this machine"),
          .peak_flops = n * peak,
          .gemm_flops = n * 0.88 * peak,
          .attention_flops = n * 0.55 * peak,
          .scan_forward = n * 9.5e9,
          .scan_backward = n * 4.3e9,
          .memory_bytes_per_second = n * 20e9,
          .optimizer_bytes_per_second = n * 40e9,
          .host_bytes_per_second = 10e9,
          .network_bytes_per_second = 10e9,
          .latency_seconds = 1e-6,
          .exchange_overlap = 0,
          // One core does both: nothing is hidden.
          .interference = 1};
}

}  // namespace

absl::StatusOr<Machine> MachineOf(const std::string& name, DType dtype, int64_t cores) {
  if (name == "H100") return Hopper(name, 680e12, 2.9e12, 80);
  if (name == "H200") return Hopper(name, 670e12, 4.1e12, 141);
  if (name == "CPU") return Cpu(dtype, cores);
  return absl::InvalidArgumentError(
      absl::StrCat("device '", name, "': expected H100, H200 or CPU"));
}

std::string MachineNameOf(const std::string& device_name) {
  std::string found;
  for (const std::string& word : std::vector<std::string>(absl::StrSplit(device_name, ' '))) {
    if (word == "PCIe" || word == "NVL") return "";
    if (word == "H100" || word == "H200") found = word;
  }
  return found;
}

}  // namespace plait
