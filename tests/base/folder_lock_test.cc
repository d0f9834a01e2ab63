#include "base/folder_lock.h"

#include <filesystem>
#include <optional>

#include "base/durable_file.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temporary_folder.h"

namespace plait {
namespace {

using ::testing::HasSubstr;

TEST(FolderLockTest, OneAtATime) {
  TemporaryFolder folder;
  ASSERT_OK_AND_ASSIGN(std::optional<FolderLock> first, FolderLock::Take(folder.path()));
  for (const auto take : {FolderLock::Take, FolderLock::TakeEmpty}) {
    EXPECT_THAT(take(folder.path()).status(),
                StatusIs(absl::StatusCode::kUnavailable, HasSubstr("another process works in it")));
  }
  first.reset();
  EXPECT_OK(FolderLock::Take(folder.path()));
  EXPECT_THAT(FolderLock::Take(folder.File("absent")).status(),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("absent/.plait-lock")));
}

TEST(FolderLockTest, OnlyWhatALockedProcessLeftIsEmptied) {
  TemporaryFolder folder;
  const std::string own = folder.File("above/own"), other = folder.File("other");
  {
    ASSERT_OK_AND_ASSIGN(const FolderLock lock, FolderLock::TakeEmpty(own));
    ASSERT_OK(WriteFileDurably(own + "/half", "x"));
  }
  ASSERT_OK_AND_ASSIGN(FolderLock lock, FolderLock::TakeEmpty(own));
  EXPECT_FALSE(std::filesystem::exists(own + "/half"));
  lock.Remove();
  EXPECT_TRUE(std::filesystem::is_empty(own));

  std::filesystem::create_directories(other);
  ASSERT_OK(WriteFileDurably(other + "/precious", "x"));
  EXPECT_THAT(FolderLock::TakeEmpty(other).status(),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("other: is not plait's")));
  EXPECT_TRUE(std::filesystem::exists(other + "/precious"));
}

}  // namespace
}  // namespace plait
