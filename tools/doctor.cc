// plait doctor: what a run would find here. Alone, or on all ranks under a launcher.
#include <google/protobuf/stubs/common.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/execution.h"
#include "base/hdf5_file.h"
#include "base/json_text.h"
#include "base/status_macros.h"
#include "kernels/cpu/onednn_version.h"
#include "kernels/cuda/runtime.h"
#include "kernels/processor.h"
#include "parallel/host_collectives.h"
#include "parallel/host_share.h"
#include "parallel/mpi_communicator.h"
#include "tools/communication_figures.h"
#include "tools/plait.h"
#include "tools/ranks.h"

namespace plait {
namespace {

using Json = nlohmann::ordered_json;

// What one rank finds; sent to all.
struct RankFacts {
  char host[64] = {};
  char simd_target[24] = {};
  char versions[232] = {};
  char device[160] = {};   // that a run would take, or why none
  int64_t cores = 0;       // that the process may use
  int64_t host_cores = 0;  // that the host has
  int64_t threads = 0;     // that a run would start on this rank
  int64_t ranks_on_host = 0;
  int64_t bf16_dot = 0;
  int64_t amx = 0;
  int64_t memory_bytes = 0;     // of the host
  int64_t available_bytes = 0;  // of it, not in use
  int64_t device_bytes = 0;     // of its memory; 0: no device
  int64_t shared_bytes = 0;     // free in /dev/shm, through which MPI moves messages on a host
};
static_assert(sizeof(RankFacts) % 8 == 0);

template <size_t n>
void CutInto(const std::string& text, char (&to)[n]) {
  std::memcpy(to, text.data(), std::min(text.size(), n - 1));
}

std::string Versions() {
  return absl::StrCat(MpiLibraryVersion(), "; HDF5 ", Hdf5LibraryVersion(), "; oneDNN ",
                      cpu::OnednnVersion(), "; Protobuf ",
                      google::protobuf::internal::VersionString(GOOGLE_PROTOBUF_VERSION), "; GCC ",
                      __VERSION__);
}

// A line of /proc/meminfo: "MemTotal:  24614520 kB".
int64_t MemoryBytes(const std::string& name) {
  std::ifstream file("/proc/meminfo");
  for (std::string word; file >> word;) {
    int64_t kilobytes = 0;
    if (word == name && file >> kilobytes) return kilobytes * 1024;
  }
  return 0;
}

RankFacts OwnFacts(const HostShare& share) {
  RankFacts facts;
  if (const auto device = cuda::Runtime(share.rank_on_host); device.ok()) {
    CutInto((*device)->DeviceName(), facts.device);
    facts.device_bytes = static_cast<int64_t>((*device)->MemoryBytes());
  } else {
    CutInto(std::string(device.status().message()), facts.device);
  }
  gethostname(facts.host, sizeof(facts.host) - 1);
  const ProcessorFeatures processor = FeaturesOfProcessor();
  CutInto(processor.simd_target, facts.simd_target);
  CutInto(Versions(), facts.versions);
  facts.cores = NumAvailableCores();
  facts.host_cores = sysconf(_SC_NPROCESSORS_ONLN);
  facts.threads = share.fair_threads;
  facts.ranks_on_host = share.ranks_on_host;
  facts.bf16_dot = processor.bf16_dot;
  facts.amx = processor.amx;
  facts.memory_bytes = MemoryBytes("MemTotal:");
  facts.available_bytes = MemoryBytes("MemAvailable:");
  struct statvfs file_system;
  if (statvfs("/dev/shm", &file_system) == 0) {
    facts.shared_bytes =
        static_cast<int64_t>(file_system.f_bavail) * static_cast<int64_t>(file_system.f_frsize);
  }
  return facts;
}

absl::StatusOr<std::vector<RankFacts>> AllFacts(Communicator& world, const RankFacts& own) {
  constexpr int64_t kWords = sizeof(RankFacts) / 8;
  Tensor words = Tensor::OnHost(DType::kI64, {kWords});
  std::memcpy(words.raw(), &own, sizeof(own));
  PLAIT_ASSIGN_OR_RETURN(const Tensor all, GatherOnHost(world, words));
  std::vector<RankFacts> facts(static_cast<size_t>(world.size()));
  std::memcpy(facts.data(), all.raw(), all.bytes());
  return facts;
}

// One line each, with its remedy.
std::vector<std::string> Problems(const std::vector<RankFacts>& ranks, int hosts,
                                  const CommunicationFigures& figures) {
  std::vector<std::string> problems;
  std::map<std::string, RankFacts> first_of_host;
  for (const RankFacts& rank : ranks) first_of_host.emplace(rank.host, rank);
  for (const auto& [host, rank] : first_of_host) {
    if (rank.ranks_on_host > rank.host_cores) {
      problems.push_back(absl::StrCat(host, ": ", rank.ranks_on_host, " ranks share ",
                                      rank.host_cores, " cores; start at most one rank a core"));
    } else if (rank.cores < rank.host_cores &&
               rank.threads * rank.ranks_on_host < rank.host_cores) {
      problems.push_back(
          absl::StrCat(host, ": ", rank.ranks_on_host, " ranks use ",
                       rank.threads * rank.ranks_on_host, " of ", rank.host_cores,
                       " cores; start them with --bind-to none (tools/launch/mpirun.sh does), "
                       "or ask the batch system for more"));
    }
    if (rank.available_bytes < rank.memory_bytes / 10) {
      problems.push_back(absl::StrFormat("%s: %.1f of %.1f GB of memory are left; end what uses it",
                                         host, rank.available_bytes * 1e-9,
                                         rank.memory_bytes * 1e-9));
    }
    constexpr int64_t kSharedBytesPerRank = 16 << 20;
    if (rank.ranks_on_host > 1 && rank.shared_bytes < rank.ranks_on_host * kSharedBytesPerRank) {
      problems.push_back(absl::StrCat(host, ": /dev/shm has ", rank.shared_bytes >> 20,
                                      " MB left, MPI needs about 16 a rank; empty it, or start the "
                                      "container with --shm-size=1g"));
    }
    if (std::strcmp(rank.simd_target, "SCALAR") == 0 ||
        std::strcmp(rank.simd_target, "EMU128") == 0) {
      problems.push_back(absl::StrCat(host,
                                      ": its processor has no AVX2; kernels run one number at "
                                      "a time, many times slower"));
    }
    const RankFacts& zero = ranks.front();
    if (std::strcmp(rank.simd_target, zero.simd_target) != 0 || rank.bf16_dot != zero.bf16_dot ||
        rank.amx != zero.amx) {
      problems.push_back(
          absl::StrCat(host, ": its instruction set is not that of ", zero.host,
                       "; bits depend on which rank computes them, take hosts alike"));
    }
    if (std::strcmp(rank.versions, zero.versions) != 0) {
      problems.push_back(absl::StrCat(host, ": its libraries (", rank.versions,
                                      ") are not those of ", zero.host, "; install the same"));
    }
  }
  if (hosts == 1 && ranks.size() > 1 && !figures.has_window) {
    problems.push_back(
        "ranks of one host cannot share memory and use messages, which is slower; run them as one "
        "user in one container that may read /proc/PID/fd (see the warnings above)");
  }
  return problems;
}

std::string Time(double seconds) { return absl::StrFormat("%.1f us", seconds * 1e6); }
std::string Bandwidth(double bytes_per_second) {
  return absl::StrFormat("%.2f GB/s", bytes_per_second * 1e-9);
}

void Print(const std::vector<RankFacts>& ranks, int hosts, const CommunicationFigures& figures,
           const std::vector<std::string>& problems) {
  std::printf("%zu %s on %d %s%s\n", ranks.size(), ranks.size() == 1 ? "rank" : "ranks", hosts,
              hosts == 1 ? "host" : "hosts",
              LaunchedByMpi() ? ", under MPI" : ", without a launcher");
  for (size_t i = 0; i < ranks.size(); ++i) {
    const RankFacts& rank = ranks[i];
    std::printf("rank %zu: %s, may use %ld of %ld cores, %ld %s; %s%s%s; %.1f of %.1f GB free\n", i,
                rank.host, static_cast<long>(rank.cores), static_cast<long>(rank.host_cores),
                static_cast<long>(rank.threads), rank.threads == 1 ? "thread" : "threads",
                rank.simd_target, rank.bf16_dot ? ", AVX512_BF16" : "", rank.amx ? ", AMX" : "",
                static_cast<double>(rank.available_bytes) * 1e-9,
                static_cast<double>(rank.memory_bytes) * 1e-9);
    if (rank.device_bytes > 0) {
      std::printf("  CUDA device: %s, %.1f GB\n", rank.device,
                  static_cast<double>(rank.device_bytes) * 1e-9);
    } else {
      std::printf("  no CUDA device: %s\n", rank.device);
    }
  }
  std::printf("%s\n", ranks.front().versions);
  if (ranks.size() > 1) {
    std::printf("messages: barrier %s; all-gather %s, %s; all-to-all %s, %s\n",
                Time(figures.barrier_seconds).c_str(), Time(figures.all_gather_seconds).c_str(),
                Bandwidth(figures.all_gather_bytes_per_second).c_str(),
                Time(figures.all_to_all_seconds).c_str(),
                Bandwidth(figures.all_to_all_bytes_per_second).c_str());
  }
  if (figures.has_window) {
    std::printf("shared window: meeting %s, read %s\n", Time(figures.window_meet_seconds).c_str(),
                Bandwidth(figures.window_read_bytes_per_second).c_str());
  } else {
    std::printf("shared window: not possible\n");
  }
  for (const std::string& problem : problems) std::printf("problem: %s\n", problem.c_str());
  if (problems.empty()) std::printf("no problem found\n");
}

void PrintJson(const std::vector<RankFacts>& ranks, int hosts, const CommunicationFigures& figures,
               const std::vector<std::string>& problems) {
  Json list = Json::array();
  for (const RankFacts& rank : ranks) {
    list.push_back({{"host", rank.host},
                    {"cores", rank.cores},
                    {"host_cores", rank.host_cores},
                    {"threads", rank.threads},
                    {"simd_target", rank.simd_target},
                    {"avx512_bf16", rank.bf16_dot != 0},
                    {"amx", rank.amx != 0},
                    {"memory_bytes", rank.memory_bytes},
                    {"available_bytes", rank.available_bytes},
                    {"device", rank.device_bytes > 0 ? Json(rank.device) : Json(nullptr)},
                    {"device_bytes", rank.device_bytes},
                    {"versions", rank.versions}});
  }
  Json answer = {{"hosts", hosts}, {"launched_by_mpi", LaunchedByMpi()}, {"ranks", list}};
  answer["communication"] = {
      {"barrier_seconds", figures.barrier_seconds},
      {"all_gather_seconds", figures.all_gather_seconds},
      {"all_gather_bytes_per_second", figures.all_gather_bytes_per_second},
      {"all_to_all_seconds", figures.all_to_all_seconds},
      {"all_to_all_bytes_per_second", figures.all_to_all_bytes_per_second},
      {"shared_window", figures.has_window},
      {"window_meet_seconds", figures.window_meet_seconds},
      {"window_read_bytes_per_second", figures.window_read_bytes_per_second}};
  answer["problems"] = problems;
  std::printf("%s\n", JsonText(answer).c_str());
}

absl::Status Examine(Communicator& world, bool json) {
  PLAIT_ASSIGN_OR_RETURN(const HostShare share, ShareOfHost(world));
  PLAIT_ASSIGN_OR_RETURN(const std::vector<RankFacts> ranks, AllFacts(world, OwnFacts(share)));
  PLAIT_ASSIGN_OR_RETURN(const CommunicationFigures figures, MeasureCommunication(world));
  if (world.rank() != 0) return absl::OkStatus();
  const std::vector<std::string> problems = Problems(ranks, share.hosts, figures);
  (json ? PrintJson : Print)(ranks, share.hosts, figures, problems);
  return absl::OkStatus();
}

}  // namespace

void AddDoctorCommand(CLI::App& plait, Action& action) {
  auto json = std::make_shared<bool>(false);
  CLI::App* command =
      plait.add_subcommand("doctor", "Looks at ranks, hosts, libraries and what is between them");
  command->add_flag("--json", *json, "Prints one JSON object");
  command->footer(
      "Examples: plait doctor; tools/launch/mpirun.sh -n 2 plait doctor\nEach problem is one line "
      "with its remedy. Times are medians, of the slowest rank: of 8 bytes, and of 4 MiB a rank.");
  command->callback([json, &action] {
    action = [json] {
      return RunOnRanks(
          [json](const std::shared_ptr<Communicator>& world) { return Examine(*world, *json); });
    };
  });
}

}  // namespace plait
