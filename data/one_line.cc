#include "data/one_line.h"

#include <cstdint>
#include <string>

#include "absl/strings/str_format.h"
#include "data/utf8.h"

namespace plait {
namespace {

constexpr int64_t kMaxMessageBytes = 400;

}  // namespace

absl::Status OneLine(const absl::Status& status) {
  std::string message;
  for (const char byte : status.message()) {
    if (static_cast<uint8_t>(byte) < 0x20) {
      absl::StrAppendFormat(&message, "\\x%02x", byte);
    } else {
      message.push_back(byte);
    }
  }
  if (static_cast<int64_t>(message.size()) > kMaxMessageBytes) {
    message.resize(static_cast<size_t>(Utf8CutBefore(message, kMaxMessageBytes)));
    message += "...";
  }
  return absl::Status(status.code(), message);
}

}  // namespace plait
