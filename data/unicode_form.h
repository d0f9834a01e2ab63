// Unicode's normalization forms and lower case, of valid UTF-8. ICU does the work.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace plait {

// NFC, NFD, NFKC (compatible) or NFKD. Characters that came after Unicode 11 stay as they are: so
// does the `tokenizers` package.
absl::StatusOr<std::string> NormalizationForm(std::string_view text, bool compatible,
                                              bool decompose);

// Each character by itself, without regard to its neighbours, by Unicode 17.
std::string LowercaseEach(std::string_view text);

}  // namespace plait
