// Numbers that JSON allows, or Python writes, and simdjson does not read.
#pragma once

#include <string>
#include <string_view>

namespace plait {

enum class NotFinite {
  kKeep,  // NaN and Infinity, which are no JSON, stay as they are
  kNull,  // become null
};

// The same text with integers of 20 digits and more, which 64 bits may not hold, as floating-point
// numbers ("10000000000000000000" gets ".0"), as transformers writes for "no limit". Text in quotes
// stays. Nothing is checked.
std::string WithReadableNumbers(std::string_view json, NotFinite not_finite);

}  // namespace plait
