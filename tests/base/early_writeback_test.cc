#include "base/early_writeback.h"

#include <gtest/gtest.h>

#include "base/durable_file.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temporary_folder.h"

namespace plait {
namespace {

TEST(EarlyWritebackTest, ChangesNothingInTheFile) {
  TemporaryFolder folder;
  const std::string path = folder.File("a");
  const std::string content(3 << 20, 'x');
  ASSERT_OK(WriteFileDurably(path, content));
  ASSERT_OK_AND_ASSIGN(EarlyWriteback writeback, EarlyWriteback::Of(path));
  EarlyWriteback moved = std::move(writeback);
  for (int i = 0; i < 100; ++i) moved.Wrote(1 << 20);
  ASSERT_OK_AND_ASSIGN(const std::string read, ReadWholeFile(path, 4 << 20));
  EXPECT_EQ(read, content);
}

TEST(EarlyWritebackTest, NeedsTheFile) {
  EXPECT_EQ(EarlyWriteback::Of("/nowhere/a").status().code(), absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace plait
