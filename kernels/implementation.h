// One ordered table of implementations per operation, in order of preference, the reference last.
// The first one that runs on the execution's device and accepts the arguments is taken; a refusal
// carries its reason.
#pragma once

#include <span>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "base/execution.h"
#include "base/log.h"

namespace plait {

template <class Args>
struct Implementation {
  absl::string_view name;
  DeviceKind device;
  // Empty if the arguments (already checked for shape) can be run, else the reason why not.
  std::string (*accepts)(const Args& args);
  absl::Status (*run)(Execution& execution, const Args& args);
};

template <class Args>
std::string AcceptsAll(const Args&) {
  return "";
}

// Unimplemented, with every refusal in the message, where none accepts.
template <class Args>
absl::Status RunFirstAccepted(Execution& execution, absl::string_view operation,
                              std::span<const Implementation<Args>> implementations,
                              const Args& args) {
  std::string refusals;
  for (const auto& implementation : implementations) {
    std::string reason = implementation.device == execution.device().kind
                             ? implementation.accepts(args)
                             : std::string("runs on another device");
    if (reason.empty()) {
      if (IsVerbose()) LogVerbose(absl::StrCat(operation, ": ", implementation.name, refusals));
      return implementation.run(execution, args);
    }
    absl::StrAppend(&refusals, "; ", implementation.name, " refused: ", reason);
  }
  return absl::UnimplementedError(
      absl::StrCat(operation, ": no implementation accepts these arguments", refusals));
}

}  // namespace plait
