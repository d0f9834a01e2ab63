// Early return for absl::Status and absl::StatusOr, spelled as upstream's later macros so that they
// can be swapped.
#pragma once

#include <string>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"

namespace plait {

// The same code and payloads with `context` put before the message: "context: message". Ok stays
// Ok.
inline absl::Status Annotate(const absl::Status& status, std::string_view context) {
  if (status.ok()) return status;
  absl::Status annotated(status.code(), absl::StrCat(std::string(context), ": ", status.message()));
  status.ForEachPayload([&annotated](absl::string_view url, const absl::Cord& payload) {
    annotated.SetPayload(url, payload);
  });
  return annotated;
}

}  // namespace plait

#define PLAIT_CONCAT_INNER(a, b) a##b
#define PLAIT_CONCAT(a, b) PLAIT_CONCAT_INNER(a, b)

#define PLAIT_RETURN_IF_ERROR(expression)        \
  do {                                           \
    absl::Status plait_status = (expression);    \
    if (!plait_status.ok()) return plait_status; \
  } while (false)

#define PLAIT_ASSIGN_OR_RETURN(target, expression) \
  PLAIT_ASSIGN_OR_RETURN_IMPL(PLAIT_CONCAT(plait_statusor_, __LINE__), target, expression)
#define PLAIT_ASSIGN_OR_RETURN_IMPL(statusor, target, expression) \
  auto statusor = (expression);                                   \
  if (!statusor.ok()) return std::move(statusor).status();        \
  target = std::move(statusor).value()
