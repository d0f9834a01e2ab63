// Checks of option values, with messages of one short line.
#pragma once

#include <CLI/CLI.hpp>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <string>

namespace plait {

// A finite number for which `holds`; `expected` says which those are.
inline CLI::Validator NumberThat(bool (*holds)(double), const std::string& expected) {
  return CLI::Validator(
      [holds, expected](std::string& text) {
        double value = 0;
        const bool is_number = CLI::detail::lexical_cast(text, value);
        return is_number && std::isfinite(value) && holds(value)
                   ? std::string()
                   : "expected " + expected + ", got " + text;
      },
      expected);
}

inline CLI::Validator AboveZero() {
  return NumberThat([](double value) { return value > 0; }, "a number above 0");
}

inline CLI::Validator NotNegative() {
  return NumberThat([](double value) { return value >= 0; }, "0 or more");
}

// Digits that 64 bits hold: no sign, which would wrap around.
inline CLI::Validator SeedNumber() {
  return CLI::Validator(
      [](std::string& text) {
        uint64_t value = 0;
        const char* const end = text.data() + text.size();
        const auto [stopped, error] = std::from_chars(text.data(), end, value);
        return error == std::errc() && stopped == end
                   ? std::string()
                   : "expected 0 to 18446744073709551615, got " + text;
      },
      "");
}

// Threads of a process; 0: as many as it has cores.
inline CLI::Validator ThreadCount() { return CLI::Range(0, 1024); }

}  // namespace plait
