#include "base/durable_file.h"

#include <cerrno>

#include "base/exit_code.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temporary_folder.h"

namespace plait {
namespace {

using ::testing::HasSubstr;

TEST(DurableFileTest, WritesReadsAndRenames) {
  TemporaryFolder folder;
  ASSERT_OK(WriteFileDurably(folder.File("a"), "content"));
  EXPECT_EQ(*ReadWholeFile(folder.File("a"), 7), "content");
  EXPECT_THAT(ReadWholeFile(folder.File("a"), 6),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("6 bytes")));
  ASSERT_OK(RenameDurably(folder.File("a"), folder.File("b")));
  EXPECT_THAT(ReadWholeFile(folder.File("a"), 7),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("/a")));
  EXPECT_OK(SyncFile(folder.File("b")));
  EXPECT_OK(SyncFolder(folder.path()));
  EXPECT_THAT(SyncFolder(folder.File("c")), StatusIs(absl::StatusCode::kNotFound, HasSubstr("/c")));
}

TEST(DurableFileTest, AReasonThatStaysIsBadInputAndOneThatMayPassIsTryAgain) {
  for (const int error : {ENOENT, EACCES, EROFS, ENOTDIR, EISDIR, ENAMETOOLONG})
    EXPECT_EQ(ExitCodeOf(SystemError("a", "b", error)), ExitCode::kBadInput) << error;
  for (const int error : {ENOSPC, EDQUOT, EIO, EMFILE, EBUSY})
    EXPECT_EQ(ExitCodeOf(SystemError("a", "b", error)), ExitCode::kTryAgain) << error;
  EXPECT_EQ(SystemError("run", "cannot be made", ENOSPC).message(),
            "run: cannot be made: No space left on device");
}

TEST(DurableFileTest, AFileWhereAFolderMustBeIsNamed) {
  TemporaryFolder folder;
  ASSERT_OK(WriteFileDurably(folder.File("a"), "content"));
  EXPECT_THAT(WriteFileDurably(folder.File("a/b"), "content"),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("a/b: cannot be created")));
}

TEST(DurableFileTest, ReservedSpaceChangesNothingAndMoreThanThereIsIsRefused) {
  TemporaryFolder folder;
  const std::string path = folder.File("a");
  ASSERT_OK(WriteFileDurably(path, "content"));
  ASSERT_OK(ReserveFileSpace(path, 0));
  ASSERT_OK(ReserveFileSpace(path, 1 << 20));
  EXPECT_EQ(*ReadWholeFile(path, 1 << 20), "content");
  EXPECT_THAT(ReserveFileSpace(path, int64_t{1} << 60),
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("/a: cannot take")));
  EXPECT_THAT(ReserveFileSpace(folder.File("b"), 1),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("/b")));
}

}  // namespace
}  // namespace plait
