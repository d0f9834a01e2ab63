// Cuts a text into the matches of three regular expressions, which tokenizers of the byte-level
// kind carry. They need look-ahead and match every character, so scanners by hand find the same
// matches, one after the other. \p{L}, \p{N} and \s are those of UnicodeClasses.
//   GPT-2     's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
//   Llama 3   (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|
//             ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+
//   Qwen 2    as Llama 3, with \p{N} in place of \p{N}{1,3}
#pragma once

#include <cstddef>
#include <optional>
#include <string_view>

namespace plait {

enum class WordPattern { kGpt2, kLlama3, kQwen2 };

// None for any other expression, if only by a character.
std::optional<WordPattern> WordPatternOf(std::string_view expression);

// Bytes of the match that `text` begins with: at least one character. text: valid UTF-8, not empty,
// from the end of the last match to the end of all.
size_t MatchWord(WordPattern pattern, std::string_view text);

}  // namespace plait
