#include "checkpoint/pending_folder.h"

#include <filesystem>

#include "base/durable_file.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temporary_folder.h"

namespace plait {
namespace {

using ::testing::HasSubstr;

class PendingFolderTest : public ::testing::Test {
 protected:
  void Make(const std::string& name, const std::string& content) {
    std::filesystem::create_directories(folder_.File(name));
    ASSERT_OK(WriteFileDurably(folder_.File(name + "/file"), content));
  }
  std::string ContentOf(const std::string& name) {
    return ReadWholeFile(folder_.File(name + "/file"), 100).value_or("none");
  }
  size_t Entries() {
    return static_cast<size_t>(std::distance(std::filesystem::directory_iterator(folder_.path()),
                                             std::filesystem::directory_iterator()));
  }

  TemporaryFolder folder_;
};

TEST_F(PendingFolderTest, TakesTheNameOfAnOlderOne) {
  Make("model", "old");
  ASSERT_OK_AND_ASSIGN(FolderLock lock, BeginFolder(folder_.File("model"), 1));
  Make("tmp.model", "new");
  EXPECT_EQ(ContentOf("model"), "old");
  ASSERT_OK(PublishFolder(folder_.File("model"), lock));
  EXPECT_EQ(ContentOf("model"), "new");
  EXPECT_EQ(Entries(), 1u);
}

TEST_F(PendingFolderTest, AnOlderOneKeepsItsNameWhereTheNewOneCannotTakeIt) {
  Make("model", "old");
  EXPECT_THAT(ReplaceFolder(folder_.File("absent"), folder_.File("model")),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("absent: cannot be renamed")));
  EXPECT_EQ(ContentOf("model"), "old");
  EXPECT_EQ(Entries(), 1u);
}

}  // namespace
}  // namespace plait
