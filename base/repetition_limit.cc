#include "base/repetition_limit.h"

namespace plait {
namespace {

// Messages with a number in them are all different: the old ones are forgotten past this many.
constexpr size_t kMessages = 1000;

}  // namespace

std::optional<int64_t> RepetitionLimit::Admit(std::string_view message, Clock::time_point now) {
  const auto known = shown_.find(message);
  if (known != shown_.end() && now - known->second.time < interval_) {
    ++known->second.left_out;
    return std::nullopt;
  }
  const int64_t left_out = known == shown_.end() ? 0 : known->second.left_out;
  if (shown_.size() >= kMessages) {
    std::erase_if(shown_, [&](const auto& entry) { return now - entry.second.time >= interval_; });
  }
  shown_.insert_or_assign(std::string(message), Shown{now});
  return left_out;
}

}  // namespace plait
