#include "data/word_scanner.h"

#include <algorithm>
#include <cstdint>

#include "data/unicode_classes.h"
#include "data/utf8.h"

namespace plait {
namespace {

constexpr uint8_t kLetter = UnicodeClasses::kLetter;
constexpr uint8_t kNumber = UnicodeClasses::kNumber;
constexpr uint8_t kSpace = UnicodeClasses::kSpace;

constexpr std::string_view kGpt2 =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
constexpr std::string_view kLlama3 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|)"
    R"( ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kQwen2 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|)"
    R"( ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kLongS = "\xc5\xbf";  // U+017F, an s whatever its case

bool IsLineBreak(char byte) { return byte == '\n' || byte == '\r'; }

class Scanner {
 public:
  explicit Scanner(std::string_view text) : text_(text), classes_(UnicodeClasses::Get()) {}

  size_t MatchGpt2() const {
    if (const size_t end = Contraction(/*any_case=*/false)) return end;
    // One space may stand before a word.
    const size_t begin = text_[0] == ' ' ? 1 : 0;
    for (const uint8_t kind : {kLetter, kNumber}) {
      if (const size_t end = RunOf(kind, begin); end > begin) return end;
    }
    if (const size_t end = RunOfOthers(begin); end > begin) return end;
    return Spaces(RunOf(kSpace, 0));
  }

  // max_digits: of one match.
  size_t MatchLlama3(int max_digits) const {
    if (const size_t end = Contraction(/*any_case=*/true)) return end;
    size_t length = 0;
    const uint8_t first = ClassesAt(0, &length);
    // One character that is no letter, number or line break may stand before letters.
    const size_t begin = (first & (kLetter | kNumber)) || IsLineBreak(text_[0]) ? 0 : length;
    if (const size_t end = RunOf(kLetter, begin); end > begin) return end;
    if (first & kNumber) return RunOf(kNumber, 0, max_digits);
    const size_t others = text_[0] == ' ' ? 1 : 0;
    if (size_t end = RunOfOthers(others); end > others) {
      while (end < text_.size() && IsLineBreak(text_[end])) ++end;
      return end;
    }
    const size_t spaces = RunOf(kSpace, 0);
    for (size_t end = spaces; end > 0; --end) {
      if (IsLineBreak(text_[end - 1])) return end;
    }
    return Spaces(spaces);
  }

 private:
  uint8_t ClassesAt(size_t at, size_t* length) const {
    int bytes = 0;
    const char32_t character = DecodeUtf8(text_.substr(at), &bytes);
    *length = static_cast<size_t>(bytes);
    return classes_.Of(character);
  }

  // The end of the run of characters with a class of `wanted` that begins at `at`.
  size_t RunOf(uint8_t wanted, size_t at, int most = INT32_MAX) const {
    size_t length = 0;
    for (; at < text_.size() && most > 0 && (ClassesAt(at, &length) & wanted); --most) at += length;
    return at;
  }

  size_t RunOfOthers(size_t at) const {
    size_t length = 0;
    while (at < text_.size() && !(ClassesAt(at, &length) & (kLetter | kNumber | kSpace)))
      at += length;
    return at;
  }

  // \s+(?!\S)|\s+ of a run of spaces that ends at `end`: a space before a word is left to it.
  size_t Spaces(size_t end) const {
    if (end == text_.size()) return end;
    const size_t last =
        static_cast<size_t>(Utf8CutBefore(text_.substr(0, end + 1), static_cast<int64_t>(end) - 1));
    return last > 0 ? last : end;
  }

  // 's, 't, 're, 've, 'm, 'll, 'd: its bytes, or 0.
  size_t Contraction(bool any_case) const {
    if (text_[0] != '\'' || text_.size() < 2) return 0;
    if (any_case && text_.substr(1, kLongS.size()) == kLongS) return 1 + kLongS.size();
    const auto letter = [&](size_t at) {
      const char byte = at < text_.size() ? text_[at] : '\0';
      return any_case && byte >= 'A' && byte <= 'Z' ? static_cast<char>(byte - 'A' + 'a') : byte;
    };
    switch (letter(1)) {
      case 's':
      case 't':
      case 'm':
      case 'd':
        return 2;
      case 'r':
      case 'v':
        return letter(2) == 'e' ? 3 : 0;
      case 'l':
        return letter(2) == 'l' ? 3 : 0;
      default:
        return 0;
    }
  }

  std::string_view text_;
  const UnicodeClasses& classes_;
};

}  // namespace

std::optional<WordPattern> WordPatternOf(std::string_view expression) {
  if (expression == kGpt2) return WordPattern::kGpt2;
  if (expression == kLlama3) return WordPattern::kLlama3;
  if (expression == kQwen2) return WordPattern::kQwen2;
  return std::nullopt;
}

size_t MatchWord(WordPattern pattern, std::string_view text) {
  const Scanner scanner(text);
  switch (pattern) {
    case WordPattern::kGpt2:
      return scanner.MatchGpt2();
    case WordPattern::kLlama3:
      return scanner.MatchLlama3(/*max_digits=*/3);
    case WordPattern::kQwen2:
      break;
  }
  return scanner.MatchLlama3(/*max_digits=*/1);
}

}  // namespace plait
