#include "trainer/tensorboard_writer.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <filesystem>
#include <numeric>
#include <system_error>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/crc32c.h"
#include "base/durable_file.h"
#include "base/status_macros.h"
#include "trainer/event.pb.h"

namespace plait {
namespace {

using Message = event::v1::Event;  // not the Event of a stream
using event::v1::SessionLog;
using event::v1::Summary;

constexpr char kPrefix[] = "events.out.tfevents.";

void AppendLittleEndian(std::string& bytes, uint64_t value, int size) {
  for (int i = 0; i < size; ++i) bytes.push_back(static_cast<char>(value >> (8 * i)));
}

uint32_t MaskedCrc(std::string_view bytes) {
  const uint32_t crc = Crc32c(bytes);
  return ((crc >> 15) | (crc << 17)) + 0xa282ead8;
}

std::string Record(const std::string& data) {
  std::string record;
  AppendLittleEndian(record, data.size(), 8);
  AppendLittleEndian(record, MaskedCrc(record), 4);
  record += data;
  AppendLittleEndian(record, MaskedCrc(data), 4);
  return record;
}

double SecondsSince1970() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

// TensorBoard reads the files in the order of their names: now, but past every one that is there,
// whatever the clock says.
int64_t SecondsOfNextFile(const std::filesystem::path& folder, std::error_code& error) {
  int64_t seconds = static_cast<int64_t>(SecondsSince1970());
  for (const auto& entry : std::filesystem::directory_iterator(folder, error)) {
    const std::string name = entry.path().filename().string();
    int64_t other = 0;
    if (name.starts_with(kPrefix) && absl::SimpleAtoi(name.substr(sizeof(kPrefix) - 1, 10), &other))
      seconds = std::max(seconds, other + 1);
  }
  return seconds;
}

std::string HostName() {
  char name[256] = {};
  return ::gethostname(name, sizeof(name) - 1) == 0 ? name : "localhost";
}

void Add(Summary& summary, const std::string& tag, double value) {
  Summary::Value& added = *summary.add_value();
  added.set_tag(tag);
  added.set_simple_value(static_cast<float>(value));
}

void AddExperts(Summary& summary, const ExpertActivations& experts) {
  const std::vector<int64_t>& tokens = experts.tokens;
  const double sum = static_cast<double>(std::accumulate(tokens.begin(), tokens.end(), int64_t{0}));
  if (sum > 0) {
    const int64_t idlest = *std::min_element(tokens.begin(), tokens.end());
    const double mean = sum / static_cast<double>(tokens.size());
    const std::string tag = absl::StrCat("tokens_per_expert/", experts.name);
    Add(summary, tag + "/busiest_over_mean", experts.largest_expert_load());
    Add(summary, tag + "/idlest_over_mean", static_cast<double>(idlest) / mean);
  }
  if (experts.largest_rank_load > 0) {
    const std::string tag = absl::StrCat("expert_load/", experts.name);
    Add(summary, tag + "/busiest_rank_over_mean", experts.largest_rank_load);
    Add(summary, tag + "/waves", static_cast<double>(experts.waves));
    Add(summary, tag + "/recomputed_waves", static_cast<double>(experts.recomputed_waves));
  }
  if (experts.absolute_max.empty()) return;
  Add(summary, absl::StrCat("activation_maximum/", experts.name, ".experts"),
      *std::max_element(experts.absolute_max.begin(), experts.absolute_max.end()));
}

}  // namespace

absl::StatusOr<TensorBoardWriter> TensorBoardWriter::Open(const std::string& folder,
                                                          int64_t resumed_step) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error) return SystemError(folder, "cannot be made", error.value());
  const int64_t seconds = SecondsOfNextFile(folder, error);
  if (error) return SystemError(folder, "cannot be read", error.value());
  TensorBoardWriter writer;
  writer.path_ =
      absl::StrFormat("%s/%s%010d.%s.%d", folder, kPrefix, seconds, HostName(), ::getpid());
  writer.file_.reset(std::fopen(writer.path_.c_str(), "ae"));
  if (writer.file_ == nullptr) return SystemError(writer.path_, "cannot be written", errno);
  Message version;
  version.set_file_version("brain.Event:2");
  PLAIT_RETURN_IF_ERROR(writer.Write(version, 0));
  Message start;
  start.mutable_session_log()->set_status(SessionLog::START);
  PLAIT_RETURN_IF_ERROR(writer.Write(start, resumed_step > 0 ? resumed_step + 1 : 0));
  return writer;
}

absl::Status TensorBoardWriter::Write(Message& event, int64_t step) {
  if (file_ == nullptr) return absl::OkStatus();
  event.set_wall_time(SecondsSince1970());
  event.set_step(step);
  const std::string record = Record(event.SerializeAsString());
  if (std::fwrite(record.data(), 1, record.size(), file_.get()) != record.size() ||
      std::fflush(file_.get()) != 0) {
    return SystemError(path_, "cannot be written", errno);
  }
  return absl::OkStatus();
}

absl::Status TensorBoardWriter::WriteStep(const StepMetrics& metrics) {
  if (file_ == nullptr) return absl::OkStatus();
  const StepResult& result = metrics.result;
  Message event;
  Summary& summary = *event.mutable_summary();
  Add(summary, "loss/total", result.loss());
  Add(summary, "loss/language_model", result.language_model_loss);
  Add(summary, "loss/balance", result.balance_loss);
  Add(summary, "loss/z", result.z_loss);
  Add(summary, "loss/activation", result.activation_loss);
  Add(summary, "optimizer/gradient_norm", result.gradient_norm);
  Add(summary, "optimizer/learning_rate", metrics.learning_rate);
  Add(summary, "speed/tokens_per_second", metrics.tokens_per_second());
  Add(summary, "speed/model_flops_per_second", metrics.model_flops_per_second());
  if (metrics.gemm_peak_flops_per_second > 0) {
    Add(summary, "speed/share_of_gemm_peak",
        metrics.model_flops_per_second() / metrics.gemm_peak_flops_per_second);
  }
  Add(summary, "wait/data_seconds", metrics.data_wait_seconds);
  Add(summary, "wait/communication_seconds", metrics.communication_wait_seconds);
  Add(summary, "memory_gigabytes", 1e-9 * static_cast<double>(metrics.memory_bytes));
  if (metrics.device != DeviceKind::kCpu) {
    Add(summary, "device_memory_gigabytes",
        1e-9 * static_cast<double>(metrics.allocated_bytes_peak));
  }
  for (const BlockActivations& block : result.watch.blocks)
    Add(summary, absl::StrCat("activation_maximum/", block.name), block.absolute_max);
  for (const ExpertActivations& experts : result.watch.experts) AddExperts(summary, experts);
  return Write(event, metrics.step);
}

absl::Status TensorBoardWriter::WriteEvaluation(int64_t step, const EvaluationResult& result) {
  Message event;
  Add(*event.mutable_summary(), "held_out/loss", result.loss);
  Add(*event.mutable_summary(), "held_out/bits_per_byte", result.bits_per_byte);
  return Write(event, step);
}

}  // namespace plait
