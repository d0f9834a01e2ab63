#include "data/line_reader.h"

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace plait {
namespace {

constexpr size_t kBlockBytes = 1 << 18;

}  // namespace

absl::StatusOr<LineReader> LineReader::Open(const std::string& path, int64_t offset) {
  PLAIT_ASSIGN_OR_RETURN(InputFile file, InputFile::Open(path, offset));
  return LineReader(path, std::move(file), offset);
}

absl::StatusOr<std::optional<std::string_view>> LineReader::Next(int64_t max_bytes) {
  size_t searched = at_;
  size_t end = std::string::npos;
  while (true) {
    end = block_.find('\n', searched);
    if (end != std::string::npos || at_end_) break;
    block_.erase(0, at_);
    at_ = 0;
    searched = block_.size();
    if (static_cast<int64_t>(searched) > max_bytes) break;
    block_.resize(searched + kBlockBytes);
    const absl::StatusOr<size_t> got = file_.Read(block_.data() + searched, kBlockBytes);
    block_.resize(searched + (got.ok() ? *got : 0));
    PLAIT_RETURN_IF_ERROR(got.status());
    at_end_ = *got == 0;
  }
  if (end == std::string::npos) end = block_.size();
  const std::string_view line(block_.data() + at_, end - at_);
  if (static_cast<int64_t>(line.size()) > max_bytes) {
    return absl::InvalidArgumentError(absl::StrCat(path_, ": the line at byte ", offset_,
                                                   " is longer than ", max_bytes, " bytes"));
  }
  if (line.empty() && at_ == block_.size()) return std::nullopt;
  const size_t next = end < block_.size() ? end + 1 : end;
  offset_ += static_cast<int64_t>(next - at_);
  at_ = next;
  return line;
}

}  // namespace plait
