#include "trainer/metrics.h"

#include <simdjson.h>

#include <cerrno>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/durable_file.h"
#include "base/json_text.h"
#include "base/status_macros.h"

namespace plait {
namespace {

using Json = nlohmann::ordered_json;

absl::Status WriteError(const std::string& path, int error) {
  return SystemError(path, "cannot be written", error);
}

struct KeptLines {
  int64_t bytes = 0;
  int64_t evaluated_step = -1;
};

// The leading whole lines whose step is at most `last_step`.
KeptLines LinesToKeep(const std::string& path, int64_t last_step) {
  std::ifstream file(path, std::ios::binary);
  simdjson::dom::parser parser;
  KeptLines kept;
  for (std::string line; std::getline(file, line) && !file.eof();) {
    const auto parsed = parser.parse(line);
    int64_t step = 0;
    std::string_view event;
    double loss = 0;  // null where it was not finite
    if (parsed["step"].get(step) != simdjson::SUCCESS || step > last_step) break;
    if (parsed["event"].get(event) == simdjson::SUCCESS && event == "evaluation" &&
        parsed["loss"].get(loss) == simdjson::SUCCESS) {
      kept.evaluated_step = step;
    }
    kept.bytes += static_cast<int64_t>(line.size()) + 1;
  }
  return kept;
}

double RootMeanSquare(double square_sum, double elements) {
  return elements > 0 ? std::sqrt(square_sum / elements) : 0;
}

Json WatchJson(const ActivationWatch& watch) {
  Json sites = Json::object();
  for (const BlockActivations& block : watch.blocks) {
    sites[block.name] = {{"max", block.absolute_max},
                         {"rms", RootMeanSquare(block.square_sum, block.elements)}};
  }
  for (const ExpertActivations& experts : watch.experts) {
    sites[experts.name + ".experts"] = {{"max", experts.absolute_max}};
  }
  return sites;
}

Json ExpertLoadJson(const ExpertActivations& experts) {
  Json load = {{"expert", experts.largest_expert_load()}};
  if (experts.largest_rank_load > 0) {
    load["rank"] = experts.largest_rank_load;
    load["waves"] = experts.waves;
    load["recomputed_waves"] = experts.recomputed_waves;
  }
  return load;
}

Json StepJson(const StepMetrics& metrics) {
  const StepResult& result = metrics.result;
  Json line = {{"event", "step"},
               {"step", metrics.step},
               {"stage", metrics.stage},
               {"loss", result.loss()},
               {"language_model_loss", result.language_model_loss},
               {"balance_loss", result.balance_loss},
               {"z_loss", result.z_loss},
               {"activation_loss", result.activation_loss},
               {"gradient_norm", result.gradient_norm},
               {"learning_rate", metrics.learning_rate},
               {"tokens", static_cast<int64_t>(result.counts.real_tokens)},
               {"tokens_per_second", metrics.tokens_per_second()},
               {"model_flops_per_second", metrics.model_flops_per_second()},
               {"share_of_gemm_peak", nullptr},
               {"memory_bytes", metrics.memory_bytes},
               {"allocated_bytes_peak", metrics.allocated_bytes_peak},
               {"reserved_bytes_peak", metrics.reserved_bytes_peak},
               {"pinned_bytes_peak", metrics.pinned_bytes_peak},
               {"communication_wait_seconds", metrics.communication_wait_seconds},
               {"data_wait_seconds", metrics.data_wait_seconds},
               {"step_seconds", metrics.step_seconds},
               {"tokens_per_expert", Json::object()},
               {"expert_load", Json::object()},
               {"activations", WatchJson(result.watch)}};
  if (metrics.gemm_peak_flops_per_second > 0) {
    line["share_of_gemm_peak"] =
        metrics.model_flops_per_second() / metrics.gemm_peak_flops_per_second;
  }
  for (const ExpertActivations& experts : result.watch.experts) {
    line["tokens_per_expert"][experts.name] = experts.tokens;
    line["expert_load"][experts.name] = ExpertLoadJson(experts);
  }
  if (!result.not_finite.empty()) line["not_finite"] = result.not_finite;
  if (!metrics.parameter_digest.empty()) line["parameter_digest"] = metrics.parameter_digest;
  return line;
}

}  // namespace

std::string ConsoleLine(const StepMetrics& metrics, int64_t total_steps) {
  const StepResult& result = metrics.result;
  std::string line = absl::StrFormat(
      "step %d/%d %s  loss %.4f (lm %.4f)  grad %.3g  lr %.3g  %.0f tokens/s  %.3g GFLOP/s",
      metrics.step, total_steps, metrics.stage, result.loss(), result.language_model_loss,
      result.gradient_norm, metrics.learning_rate, metrics.tokens_per_second(),
      metrics.model_flops_per_second() / 1e9);
  if (metrics.gemm_peak_flops_per_second > 0) {
    absl::StrAppendFormat(
        &line, " (%.1f %% of GEMM peak)",
        100 * metrics.model_flops_per_second() / metrics.gemm_peak_flops_per_second);
  }
  absl::StrAppendFormat(&line, "  %d MB", metrics.memory_bytes >> 20);
  if (metrics.device != DeviceKind::kCpu) {
    absl::StrAppendFormat(&line, ", device %d MB", metrics.allocated_bytes_peak >> 20);
  }
  absl::StrAppendFormat(&line, "  wait %.3f s", metrics.data_wait_seconds);
  if (metrics.num_ranks > 1) {
    absl::StrAppendFormat(&line, "  comm %.1f %%",
                          100 * metrics.communication_wait_seconds / metrics.step_seconds);
  }
  return line;
}

std::string ProgressLine(const StepMetrics& metrics, int64_t total_steps, double seconds_left) {
  const auto left = static_cast<int64_t>(std::ceil(seconds_left));
  return absl::StrFormat(
      "step %d/%d %.1f %%  loss %.4f  %.0f tokens/s  %d:%02d:%02d left", metrics.step, total_steps,
      100 * static_cast<double>(metrics.step) / static_cast<double>(total_steps),
      metrics.result.loss(), metrics.tokens_per_second(), left / 3600, left / 60 % 60, left % 60);
}

absl::StatusOr<MetricsFile> MetricsFile::Open(const std::string& path, int64_t resumed_step) {
  MetricsFile metrics;
  std::error_code error;
  if (std::filesystem::exists(path, error)) {
    const KeptLines kept = resumed_step > 0 ? LinesToKeep(path, resumed_step) : KeptLines();
    std::filesystem::resize_file(path, static_cast<uintmax_t>(kept.bytes), error);
    if (error) return WriteError(path, error.value());
    metrics.evaluated_step_ = kept.evaluated_step;
  }
  metrics.path_ = path;
  metrics.file_.reset(std::fopen(path.c_str(), "ae"));
  if (metrics.file_ == nullptr) return WriteError(path, errno);
  return metrics;
}

absl::Status MetricsFile::WriteLine(const std::string& line) {
  if (file_ == nullptr) return absl::OkStatus();
  const std::string text = line + "\n";
  if (std::fwrite(text.data(), 1, text.size(), file_.get()) != text.size() ||
      std::fflush(file_.get()) != 0) {
    return WriteError(path_, errno);
  }
  return absl::OkStatus();
}

absl::Status MetricsFile::WriteStart(int64_t step, const std::string& recipe_digest,
                                     int64_t parameters, double seconds_since_process_start,
                                     const std::string& parameter_digest) {
  Json line = {{"event", "start"},
               {"step", step},
               {"recipe_digest", recipe_digest},
               {"parameters", parameters},
               {"seconds_since_process_start", seconds_since_process_start}};
  if (!parameter_digest.empty()) line["parameter_digest"] = parameter_digest;
  return WriteLine(JsonText(line));
}

absl::Status MetricsFile::WriteStep(const StepMetrics& metrics) {
  return WriteLine(JsonText(StepJson(metrics)));
}

absl::Status MetricsFile::WriteEvaluation(int64_t step, const EvaluationResult& result,
                                          double seconds) {
  return WriteLine(JsonText(Json({{"event", "evaluation"},
                                  {"step", step},
                                  {"loss", result.loss},
                                  {"bits_per_byte", result.bits_per_byte},
                                  {"tokens", result.tokens},
                                  {"text_bytes", result.text_bytes},
                                  {"seconds", seconds}})));
}

absl::Status MetricsFile::WriteCheckpoint(int64_t step, const std::string& folder,
                                          const std::string& parameter_digest, double seconds) {
  return WriteLine(JsonText(Json({{"event", "checkpoint"},
                                  {"step", step},
                                  {"folder", folder},
                                  {"parameter_digest", parameter_digest},
                                  {"seconds", seconds}})));
}

absl::Status MetricsFile::WriteStop(int64_t step, const std::string& reason) {
  return WriteLine(JsonText(Json({{"event", "stop"}, {"step", step}, {"reason", reason}})));
}

}  // namespace plait
