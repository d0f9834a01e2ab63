// Which characters are letters, numbers, spaces and parts of words, as the `tokenizers` package
// 0.23 sees them: Unicode 16. ICU tells what it knows (Debian 12: Unicode 15); the ranges that came
// later are listed in the source.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

namespace plait {

class UnicodeClasses {
 public:
  // Bits of Of().
  static constexpr uint8_t kLetter = 1;    // \p{L}
  static constexpr uint8_t kNumber = 2;    // \p{N}
  static constexpr uint8_t kSpace = 4;     // \s, White_Space
  static constexpr uint8_t kWord = 8;      // \w of Rust's regular expressions
  static constexpr uint8_t kNumeric = 16;  // Rust's char::is_numeric: \p{N} of Unicode 17

  // One table for the process, made at the first call (20 ms). Thread-safe.
  static const UnicodeClasses& Get();

  uint8_t Of(char32_t character) const { return table_[character]; }

 private:
  UnicodeClasses();

  std::vector<uint8_t> table_;  // [0x110000]
};

}  // namespace plait
