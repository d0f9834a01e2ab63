// UTF-8 as Unicode defines it: no overlong forms, no surrogates, nothing above U+10FFFF.
#pragma once

#include <cstddef>
#include <string>

namespace plait {

// Index of the first byte that is not part of valid UTF-8, or is a NUL; npos where there is none.
size_t FirstInvalidUtf8Byte(const std::string& text);

}  // namespace plait
