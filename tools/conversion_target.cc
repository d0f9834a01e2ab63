#include "tools/conversion_target.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "base/durable_file.h"
#include "base/status_macros.h"
#include "checkpoint/manifest_file.h"
#include "checkpoint/pending_folder.h"
#include "checkpoint/safetensors_folder.h"
#include "parallel/status_agreement.h"

namespace plait {
namespace {

namespace fs = std::filesystem;

// Whether `inner` is `outer` or lies in it.
bool LiesIn(const fs::path& inner, const fs::path& outer) {
  const auto [end_of_outer, rest] =
      std::mismatch(outer.begin(), outer.end(), inner.begin(), inner.end());
  return end_of_outer == outer.end();
}

absl::Status CheckTarget(const ConversionOptions& options) {
  std::error_code error;
  const fs::path source = fs::canonical(options.source, error);
  const fs::path target = fs::weakly_canonical(options.target, error);
  if (!error && (LiesIn(source, target) || LiesIn(target, source))) {
    return absl::InvalidArgumentError(absl::StrCat(
        options.target, ": one of source and target lies in the other; name another target"));
  }
  if (!fs::exists(fs::symlink_status(options.target, error))) return absl::OkStatus();
  if (!options.replace) {
    return absl::AlreadyExistsError(
        absl::StrCat(options.target, ": exists; name another target, or replace it with --force"));
  }
  const bool is_model = fs::exists(target / kCheckpointManifestName, error) ||
                        (fs::exists(target / "config.json", error) &&
                         (fs::exists(target / "model.safetensors", error) ||
                          fs::exists(target / kSafetensorsIndexName, error))) ||
                        (fs::is_directory(target, error) && fs::is_empty(target, error));
  if (is_model && !fs::is_symlink(options.target, error)) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(
      options.target, ": is neither a checkpoint nor a model folder, so --force leaves it alone"));
}

// Before the work: the report is written after it.
absl::Status CheckReport(const ConversionOptions& options) {
  if (options.report.empty()) return absl::OkStatus();
  std::error_code error;
  const fs::path report = fs::weakly_canonical(options.report, error);
  for (const std::string& folder : {options.source, options.target}) {
    if (!LiesIn(report, fs::weakly_canonical(folder, error))) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("--report: ", options.report, " lies in ", folder, "; name a file elsewhere"));
  }
  if (fs::exists(report, error) && !fs::is_regular_file(report, error)) {
    return absl::InvalidArgumentError(
        absl::StrCat("--report: ", options.report, " is no file; name one"));
  }
  const fs::path folder = report.parent_path();
  if (::access(folder.c_str(), W_OK) == 0) return absl::OkStatus();
  return SystemError(options.report, "cannot be created", errno);
}

absl::Status Begin(const ConversionOptions& options, int64_t needed_bytes, FolderLock& lock) {
  PLAIT_RETURN_IF_ERROR(CheckReport(options));
  PLAIT_RETURN_IF_ERROR(CheckTarget(options));
  PLAIT_ASSIGN_OR_RETURN(lock, BeginFolder(options.target, needed_bytes));
  return absl::OkStatus();
}

absl::Status Finish(const ConversionOptions& options, const std::string& folder, FolderLock& lock,
                    const std::function<absl::Status(const std::string&)>& complete) {
  PLAIT_RETURN_IF_ERROR(complete(folder));
  return PublishFolder(options.target, lock);
}

}  // namespace

absl::Status MakeConversionTarget(
    Communicator& world, const ConversionOptions& options, int64_t needed_bytes,
    const std::function<absl::Status(const std::string& folder)>& fill,
    const std::function<absl::Status(const std::string& folder)>& complete) {
  const bool is_first = world.rank() == 0;
  FolderLock lock;
  PLAIT_RETURN_IF_ERROR(
      AgreeOnStatus(world, is_first ? Begin(options, needed_bytes, lock) : absl::OkStatus()));
  const std::string folder = PendingFolderOf(options.target);
  absl::Status status = fill(folder);
  if (status.ok()) {
    status =
        AgreeOnStatus(world, is_first ? Finish(options, folder, lock, complete) : absl::OkStatus());
  }
  if (!status.ok() && is_first) DiscardFolder(options.target);
  return status;
}

}  // namespace plait
