// Machine: the constants of a plan's time, one table (machine.cc). Rates are those of one rank's
// device: of an H100 or H200 SXM measured, or published for it; of a CPU those of one core times
// the cores a rank has. Nothing is measured when a plan is made.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "base/dtype.h"

namespace plait {

struct Machine {
  std::string name;
  std::string remark;          // where the numbers come from
  double peak_flops = 0;       // what MFU is a share of
  double gemm_flops = 0;       // sustained by training's matrix products
  double attention_flops = 0;  // causal, forward and backward together
  double scan_forward = 0;     // state updates (channel x state) per second
  double scan_backward = 0;
  double memory_bytes_per_second = 0;     // of elementwise passes
  double optimizer_bytes_per_second = 0;  // of AdamW
  int64_t memory_bytes = 0;               // of a rank; 0: not known
  int64_t ranks_per_host = 0;             // 0: all ranks are on one
  double host_bytes_per_second = 0;       // of a collective within a host, received by a rank
  double network_bytes_per_second = 0;    // between hosts, of a rank's own link
  double latency_seconds = 0;             // of a collective, for each doubling of its ranks
  // Of exchanged experts' rows, how much is hidden behind compute; of the smaller of compute and
  // parameter traffic, what each costs the other.
  double exchange_overlap = 0;
  double interference = 0;
};

// name: "H100", "H200" or "CPU". cores: of a rank, CPU only. InvalidArgument for another name.
absl::StatusOr<Machine> MachineOf(const std::string& name, DType dtype, int64_t cores);

// The row of a GPU by what it calls itself ("NVIDIA H100 80GB HBM3"): "H100", "H200"; empty for
// others, and for those of the two with less power (PCIe, NVL).
std::string MachineNameOf(const std::string& device_name);

}  // namespace plait
