#include "base/json_numbers.h"

#include <gtest/gtest.h>

namespace plait {
namespace {

std::string Readable(std::string_view json) { return WithReadableNumbers(json, NotFinite::kNull); }

TEST(JsonNumbersTest, LongIntegersBecomeFloatingPoint) {
  EXPECT_EQ(Readable(R"({"a": 1000000000000000019884624838656, "b": 12})"),
            R"({"a": 1000000000000000019884624838656.0, "b": 12})");
  EXPECT_EQ(Readable("[-100000000000000000000]"), "[-100000000000000000000.0]");
  EXPECT_EQ(Readable("100000000000000000000"), "100000000000000000000.0");
}

TEST(JsonNumbersTest, AllElseStays) {
  for (const char* const json :
       {"9223372036854775807", "1.00000000000000000000001", "100000000000000000000.5",
        "100000000000000000000e3", "100000000000000000000E3", "1e+100000000000000000000",
        R"("100000000000000000000")", R"("a\"100000000000000000000")", R"("\\", 1)", "\"open",
        "\"\\", R"({"NaN": "Infinity"})", ""}) {
    EXPECT_EQ(Readable(json), json);
  }
}

TEST(JsonNumbersTest, WhatIsNotFiniteIsNullWhereAsked) {
  EXPECT_EQ(Readable(R"([NaN, Infinity, -Infinity, "NaN"])"), R"([null, null, null, "NaN"])");
  EXPECT_EQ(WithReadableNumbers("[NaN, Infinity]", NotFinite::kKeep), "[NaN, Infinity]");
}

}  // namespace
}  // namespace plait
