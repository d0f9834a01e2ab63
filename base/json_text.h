// JSON as text, for any strings: paths and messages need not be UTF-8, which JSON is.
#pragma once

#include <string>

namespace plait {

// value: of nlohmann's. One line; bytes that are no UTF-8 become U+FFFD.
template <class Json>
std::string JsonText(const Json& value) {
  return value.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace plait
