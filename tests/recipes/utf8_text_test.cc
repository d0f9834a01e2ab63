#include "recipes/utf8_text.h"

#include <gtest/gtest.h>

namespace plait {
namespace {

TEST(Utf8TextTest, AcceptsTheLastAndFirstOfEveryLength) {
  for (const char* text : {"", "a\x7f", "\xc2\x80\xdf\xbf", "\xe0\xa0\x80\xed\x9f\xbf",
                           "\xee\x80\x80\xef\xbf\xbf", "\xf0\x90\x80\x80\xf4\x8f\xbf\xbf"}) {
    EXPECT_EQ(FirstInvalidUtf8Byte(text), std::string::npos) << text;
  }
}

TEST(Utf8TextTest, NamesTheFirstByteThatIsNotUtf8) {
  for (const char* bad :
       {"\x80", "\xc0\x80", "\xc1\xbf", "\xc2", "\xe0\x9f\xbf", "\xed\xa0\x80", "\xe2\x82",
        "\xf0\x8f\xbf\xbf", "\xf4\x90\x80\x80", "\xf5\x80\x80\x80", "\xff"}) {
    EXPECT_EQ(FirstInvalidUtf8Byte(std::string("ok ") + bad), 3u);
  }
  EXPECT_EQ(FirstInvalidUtf8Byte(std::string("a\0b", 3)), 1u);
}

}  // namespace
}  // namespace plait
