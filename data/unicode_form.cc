#include "data/unicode_form.h"

#include <unicode/uchar.h>
#include <unicode/unorm2.h>
#include <unicode/uset.h>
#include <unicode/ustring.h>

#include <algorithm>
#include <vector>

#include "absl/strings/str_cat.h"
#include "data/utf8.h"

namespace plait {
namespace {

absl::Status ErrorOf(UErrorCode error) {
  return absl::InternalError(absl::StrCat("Unicode normalization failed: ", u_errorName(error)));
}

const USet* KnownCharacters() {
  static const USet* const known = [] {
    UErrorCode error = U_ZERO_ERROR;
    USet* set = uset_openPattern(u"[:age=11.0:]", -1, &error);
    if (U_SUCCESS(error)) uset_freeze(set);
    return set;
  }();
  return known;
}

// Lower case of what was assigned after Unicode 15.0, up to 17: `first` to `last`, each `step`
// after the other, becomes what is `distance` away.
struct LaterCase {
  char32_t first, last, step;
  int32_t distance;
};
constexpr LaterCase kLaterCases[] = {
    {0x1c89, 0x1c89, 1, 1},    {0xa7cb, 0xa7cb, 1, 0x264 - 0xa7cb},
    {0xa7cc, 0xa7ce, 2, 1},    {0xa7d2, 0xa7d4, 2, 1},
    {0xa7da, 0xa7da, 1, 1},    {0xa7dc, 0xa7dc, 1, 0x19b - 0xa7dc},
    {0x10d50, 0x10d65, 1, 32}, {0x16ea0, 0x16eb8, 1, 27},
};

char32_t Lower(char32_t character) {
  for (const LaterCase& later : kLaterCases) {
    if (character >= later.first && character <= later.last &&
        (character - later.first) % later.step == 0) {
      return static_cast<char32_t>(static_cast<int32_t>(character) + later.distance);
    }
  }
  return static_cast<char32_t>(u_tolower(static_cast<UChar32>(character)));
}

}  // namespace

absl::StatusOr<std::string> NormalizationForm(std::string_view text, bool compatible,
                                              bool decompose) {
  const bool is_ascii =
      std::all_of(text.begin(), text.end(), [](char byte) { return (byte & 0x80) == 0; });
  if (is_ascii) return std::string(text);
  UErrorCode error = U_ZERO_ERROR;
  const UNormalizer2* whole = unorm2_getInstance(
      nullptr, compatible ? "nfkc" : "nfc", decompose ? UNORM2_DECOMPOSE : UNORM2_COMPOSE, &error);
  if (U_FAILURE(error)) return ErrorOf(error);
  UNormalizer2* const filtered = unorm2_openFiltered(whole, KnownCharacters(), &error);
  if (U_FAILURE(error)) return ErrorOf(error);
  std::vector<UChar> wide(text.size());
  int32_t units = 0;
  u_strFromUTF8(wide.data(), static_cast<int32_t>(wide.size()), &units, text.data(),
                static_cast<int32_t>(text.size()), &error);
  std::vector<UChar> form(wide.size() + 64);
  int32_t form_units = 0;
  for (int attempt = 0; U_SUCCESS(error) && attempt < 2; ++attempt) {
    form_units = unorm2_normalize(filtered, wide.data(), units, form.data(),
                                  static_cast<int32_t>(form.size()), &error);
    if (error != U_BUFFER_OVERFLOW_ERROR) break;
    error = U_ZERO_ERROR;
    form.resize(static_cast<size_t>(form_units));
  }
  unorm2_close(filtered);
  std::string result(3 * static_cast<size_t>(std::max(form_units, 0)), '\0');
  int32_t bytes = 0;
  u_strToUTF8(result.data(), static_cast<int32_t>(result.size()), &bytes, form.data(), form_units,
              &error);
  if (U_FAILURE(error)) return ErrorOf(error);
  result.resize(static_cast<size_t>(bytes));
  return result;
}

std::string LowercaseEach(std::string_view text) {
  std::string lower;
  lower.reserve(text.size());
  int length = 0;
  for (; !text.empty(); text.remove_prefix(static_cast<size_t>(length))) {
    const char32_t character = DecodeUtf8(text, &length);
    AppendUtf8(Lower(character), &lower);
    // The one character whose lower case is two: I with a dot above.
    if (character == 0x130) AppendUtf8(0x307, &lower);
  }
  return lower;
}

}  // namespace plait
