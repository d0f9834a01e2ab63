#include "parallel/status_agreement.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/digest.h"
#include "base/exit_code.h"
#include "base/status_macros.h"
#include "base/tensor.h"
#include "parallel/host_collectives.h"

namespace plait {
namespace {

constexpr char kAgreed[] = "plait/agreed";
// Bytes of a message that other ranks are told.
constexpr int64_t kMessageBytes = 2000;
constexpr int64_t kWords = 2 + kMessageBytes / 8;

absl::Status Agreed(absl::Status status) {
  status.SetPayload(kAgreed, absl::Cord("1"));
  return status;
}

std::string MessageOf(const int64_t* words) {
  const char* text = reinterpret_cast<const char*>(words + 2);
  return std::string(text, strnlen(text, kMessageBytes));
}

// The message, or its beginning, whole characters of UTF-8, and "...".
std::string Told(std::string_view message) {
  if (message.size() <= kMessageBytes) return std::string(message);
  size_t end = kMessageBytes - 3;
  while (end > 0 && (message[end] & 0xC0) == 0x80) --end;
  return absl::StrCat(std::string(message.substr(0, end)), "...");
}

}  // namespace

absl::Status AgreeOnStatus(Communicator& world, const absl::Status& own) {
  Tensor words = Tensor::OnHost(DType::kI64, {kWords});
  int64_t* w = words.data<int64_t>();
  w[0] = static_cast<int64_t>(own.code());
  w[1] = static_cast<int64_t>(ExitCodeOf(own));
  const std::string own_message(own.message().data(), own.message().size());
  const std::string told = Told(own_message);
  if (!told.empty()) std::memcpy(w + 2, told.data(), told.size());
  PLAIT_ASSIGN_OR_RETURN(const Tensor all, GatherOnHost(world, words));
  int first = -1;
  bool alike = true;
  for (int rank = 0; rank < world.size(); ++rank) {
    const int64_t* other = all.data<int64_t>() + rank * kWords;
    if (other[0] != 0 && first < 0) first = rank;
    alike = alike && std::memcmp(other, all.data<int64_t>(), kWords * sizeof(int64_t)) == 0;
  }
  if (first < 0) return absl::OkStatus();
  const int64_t* failure = all.data<int64_t>() + first * kWords;
  absl::Status status(static_cast<absl::StatusCode>(failure[0]),
                      alike ? own_message : absl::StrCat("rank ", first, ": ", MessageOf(failure)));
  return Agreed(WithExitCode(std::move(status), static_cast<ExitCode>(failure[1])));
}

bool IsAgreed(const absl::Status& status) { return status.GetPayload(kAgreed).has_value(); }

absl::Status CheckSameText(Communicator& world, const std::string& what, const std::string& text) {
  const std::string digest = DigestOf(text.data(), text.size());
  Tensor words = Tensor::OnHost(DType::kI64, {static_cast<int64_t>(digest.size() / 8)});
  std::memcpy(words.raw(), digest.data(), words.bytes());
  PLAIT_ASSIGN_OR_RETURN(const Tensor all, GatherOnHost(world, words));
  std::vector<int> others;
  for (int rank = 1; rank < world.size(); ++rank) {
    const int64_t* other = all.data<int64_t>() + rank * words.num_elements();
    if (std::memcmp(other, all.data<int64_t>(), words.bytes()) != 0) others.push_back(rank);
  }
  if (others.empty()) return absl::OkStatus();
  return Agreed(absl::FailedPreconditionError(
      absl::StrCat(what, " of rank ", absl::StrJoin(others, ", "),
                   " is not that of rank 0; start every rank with the same files and options")));
}

}  // namespace plait
