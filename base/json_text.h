// JSON as text, for any strings: paths and messages need not be UTF-8, which JSON is.
#pragma once

#include <string>

namespace plait {

// value: of nlohmann's. Bytes that are no UTF-8 become U+FFFD. indent < 0: one line.
template <class Json>
std::string JsonText(const Json& value, int indent = -1) {
  return value.dump(indent, ' ', false, Json::error_handler_t::replace);
}

}  // namespace plait
