#include "base/digest.h"

#include "base/durable_file.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temporary_folder.h"

namespace plait {
namespace {

TEST(DigestTest, FileAndMemoryAgree) {
  TemporaryFolder folder;
  const std::string content(3'000'000, 'x');
  ASSERT_OK(WriteFileDurably(folder.File("a"), content));
  EXPECT_EQ(*DigestOfFile(folder.File("a")), DigestOf(content.data(), content.size()));
  // The published value of XXH3-128 for no input.
  EXPECT_EQ(DigestOf("", 0), "99aa06d3014798d86001c324468d497f");
}

}  // namespace
}  // namespace plait
