// Every kind of damage is found, and named, before anything is loaded.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <limits>

#include "base/digest.h"
#include "base/durable_file.h"
#include "base/exit_code.h"
#include "base/random.h"
#include "base/segmented_digest.h"
#include "checkpoint/checkpoint_reader.h"
#include "checkpoint/checkpoint_writer.h"
#include "checkpoint/retention.h"
#include "tests/support/checkpoint_content.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/tensor_matchers.h"

namespace plait {
namespace {

using ::testing::HasSubstr;

class DamageTest : public ::testing::Test {
 protected:
  DamageTest()
      : world_(MakeSingleRankCommunicator()),
        checkpoints_(folder_.File("checkpoints")),
        writer_(*world_, checkpoints_, /*keep=*/3) {}

  TemporaryFolder folder_;
  std::unique_ptr<Communicator> world_;
  std::string checkpoints_;
  CheckpointWriter writer_;
};

constexpr int64_t kMaxBytes = 1 << 24;

void Overwrite(const std::string& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary | std::ios::trunc) << bytes;
}

// The checkpoint must be refused with exit code 3 and a message that names `name`.
void ExpectRefused(const std::string& folder, const std::string& name, const std::string& what) {
  const auto reader = CheckpointReader::Open(folder);
  ASSERT_FALSE(reader.ok()) << what;
  EXPECT_EQ(ExitCodeOf(reader.status()), ExitCode::kBadCheckpoint) << what;
  EXPECT_THAT(std::string(reader.status().message()), HasSubstr(name)) << what;
}

TEST_F(DamageTest, TruncationAnywhereIsFound) {
  ASSERT_OK_AND_ASSIGN(const std::string saved, writer_.Save(SmallContent(1)));
  for (const char* name : {"rank-00000.h5", "manifest.textproto", "tokenizer.model"}) {
    const std::string path = saved + "/" + name;
    ASSERT_OK_AND_ASSIGN(const std::string bytes, ReadWholeFile(path, kMaxBytes));
    for (size_t size = 0; size < bytes.size(); size += 4096) {
      Overwrite(path, bytes.substr(0, size));
      ExpectRefused(saved, name, "cut to " + std::to_string(size));
    }
    Overwrite(path, bytes.substr(0, bytes.size() - 1));
    ExpectRefused(saved, name, "one byte short");
    Overwrite(path, bytes + "x");
    ExpectRefused(saved, name, "one byte more");
    std::filesystem::remove(path);
    ExpectRefused(saved, name, "removed");
    Overwrite(path, bytes);
  }
  EXPECT_OK(CheckpointReader::Open(saved));
}

TEST_F(DamageTest, EveryBitFlipIsFound) {
  ASSERT_OK_AND_ASSIGN(const std::string saved, writer_.Save(SmallContent(1)));
  const RandomKey key(/*seed=*/1, RandomPurpose::kTest);
  uint64_t draw = 0;
  for (const char* name : {"rank-00000.h5", "manifest.textproto"}) {
    const std::string path = saved + "/" + name;
    ASSERT_OK_AND_ASSIGN(const std::string bytes, ReadWholeFile(path, kMaxBytes));
    for (int flip = 0; flip < 500; ++flip) {
      const auto words = key.Words(draw++);
      std::string damaged = bytes;
      const size_t at = words[0] % bytes.size();
      damaged[at] = static_cast<char>(damaged[at] ^ (1 << words[1] % 8));
      Overwrite(path, damaged);
      ExpectRefused(saved, name, "byte " + std::to_string(at));
    }
    Overwrite(path, bytes);
  }
  EXPECT_OK(CheckpointReader::Open(saved));
}

TEST_F(DamageTest, TakesTheNewestThatVerifiesAndNamesTheOthers) {
  for (int64_t step : {1, 2, 3}) ASSERT_OK(writer_.Save(SmallContent(step)));
  std::filesystem::resize_file(checkpoints_ + "/step-00000003/rank-00000.h5", 100);
  std::filesystem::remove(checkpoints_ + "/step-00000002/manifest.textproto");
  std::vector<RejectedCheckpoint> rejected;
  ASSERT_OK_AND_ASSIGN(const CheckpointReader reader,
                       OpenNewestCheckpoint(checkpoints_, &rejected));
  EXPECT_EQ(reader.description().step, 1);
  ASSERT_EQ(rejected.size(), 2u);
  EXPECT_THAT(rejected[0].folder, HasSubstr("step-00000003"));
  EXPECT_THAT(rejected[0].reason, HasSubstr("found 100"));
  EXPECT_THAT(rejected[1].reason, HasSubstr("manifest.textproto"));
}

TEST_F(DamageTest, ASaveBelowADamagedNewerOneIsKept) {
  CheckpointWriter writer(*world_, checkpoints_, /*keep=*/1);
  ASSERT_OK(writer.Save(SmallContent(9)));
  std::filesystem::resize_file(checkpoints_ + "/step-00000009/rank-00000.h5", 100);
  ASSERT_OK(writer.Save(SmallContent(4)));
  ASSERT_OK(writer.Save(SmallContent(5)));
  std::vector<RejectedCheckpoint> rejected;
  ASSERT_OK_AND_ASSIGN(const CheckpointReader reader,
                       OpenNewestCheckpoint(checkpoints_, &rejected));
  EXPECT_EQ(reader.description().step, 5);
  EXPECT_FALSE(std::filesystem::exists(checkpoints_ + "/step-00000004"));
}

TEST_F(DamageTest, AShardWithoutItsDigestIsNamed) {
  // The file is as it was written: only the shard's digest can tell.
  ASSERT_OK_AND_ASSIGN(const std::string saved, writer_.Save(SmallContent(1)));
  ASSERT_OK_AND_ASSIGN(const ShardFile file, ShardFile::Open(saved + "/rank-00000.h5"));
  StoredTensor tensor = file.tensors()[0];
  tensor.digest[0] = tensor.digest[0] == '0' ? '1' : '0';
  EXPECT_THAT(file.Verify(tensor), StatusIs(absl::StatusCode::kDataLoss, HasSubstr(tensor.name)));
}

TEST_F(DamageTest, ManifestOfDeepNestingIsRefused) {
  // With a digest that agrees: the parser itself must bear it.
  std::string text;
  for (int depth = 0; depth < 100000; ++depth) text += "files { ";
  text += "# digest of the lines above: " + DigestOf(text.data(), text.size()) + "\n";
  EXPECT_THAT(ParseCheckpointManifest(text, "deep"),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("deep")));
}

TEST_F(DamageTest, ManifestMayNotNameAFileElsewhere) {
  CheckpointManifest manifest;
  manifest.files = {{"../rank-00000.h5", 1, ""}};
  EXPECT_THAT(ParseCheckpointManifest(CheckpointManifestText(manifest), "manifest"),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("bad file entry")));
}

TEST_F(DamageTest, DigestsOfWholeFilesAreReadAsWell) {
  ASSERT_OK_AND_ASSIGN(const std::string saved, writer_.Save(SmallContent(1)));
  ASSERT_OK_AND_ASSIGN(CheckpointManifest manifest, ReadCheckpointManifest(saved));
  CheckpointFile& file = manifest.files.at(0);
  ASSERT_EQ(file.name, "rank-00000.h5");
  EXPECT_EQ(file.segment_bytes, kDigestSegmentBytes);
  file.segment_bytes = 0;
  Overwrite(saved + "/manifest.textproto", CheckpointManifestText(manifest));
  ExpectRefused(saved, "rank-00000.h5", "a digest of segments, taken for the whole file's");
  ASSERT_OK_AND_ASSIGN(file.digest, DigestOfFile(saved + "/rank-00000.h5"));
  Overwrite(saved + "/manifest.textproto", CheckpointManifestText(manifest));
  EXPECT_OK(CheckpointReader::Open(saved));
  for (const int64_t bytes : {int64_t{1}, std::numeric_limits<int64_t>::max()}) {
    file.segment_bytes = bytes;
    EXPECT_THAT(ParseCheckpointManifest(CheckpointManifestText(manifest), "manifest"),
                StatusIs(absl::StatusCode::kDataLoss,
                         HasSubstr(absl::StrCat("rank-00000.h5: segment_bytes is ", bytes))));
  }
}

TEST_F(DamageTest, LeftoversAreRemovedAtStartAndNothingElse) {
  ASSERT_OK(writer_.Save(SmallContent(1)));
  std::filesystem::create_directories(checkpoints_ + "/tmp.step-00000002");
  Overwrite(checkpoints_ + "/tmp.step-00000002/rank-00000.h5", "half");
  std::filesystem::create_directories(checkpoints_ + "/tmp.trash.step-00000000");
  ASSERT_OK(writer_.RemoveLeftovers());
  ASSERT_OK_AND_ASSIGN(const auto entries, ListCheckpoints(checkpoints_));
  EXPECT_EQ(entries.size(), 1u);
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(checkpoints_), {}), 1);
}

TEST_F(DamageTest, AFullDiskLeavesTheOldCheckpoint) {
  ASSERT_OK(writer_.Save(SmallContent(1)));
  // A child, so that the limit on file sizes is its own. EFBIG stands for ENOSPC.
  const pid_t child = ::fork();
  if (child == 0) {
    ::signal(SIGXFSZ, SIG_IGN);
    const struct rlimit limit = {2048, 2048};
    ::setrlimit(RLIMIT_FSIZE, &limit);
    const auto saved = writer_.Save(SmallContent(2));
    ::_exit(static_cast<int>(ExitCodeOf(saved.status())));
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), static_cast<int>(ExitCode::kTryAgain));
  ASSERT_OK_AND_ASSIGN(const auto entries, ListCheckpoints(checkpoints_));
  ASSERT_EQ(entries.size(), 1u);
  EXPECT_OK(CheckpointReader::Open(entries[0].folder));
  EXPECT_FALSE(std::filesystem::exists(checkpoints_ + "/tmp.step-00000002"));
}

TEST_F(DamageTest, AKilledSaveLosesNothing) {
  ASSERT_OK(writer_.Save(SmallContent(1)));
  int64_t published = 1;
  for (int round = 0; round < 25; ++round) {
    // Saves one after the other until it is killed; says on the pipe what it published.
    int pipe_ends[2];
    ASSERT_EQ(::pipe(pipe_ends), 0);
    const pid_t child = ::fork();
    if (child == 0) {
      for (int64_t step = published + 1;; ++step) {
        if (!writer_.Save(SmallContent(step, /*seed=*/step)).ok()) ::_exit(1);
        if (::write(pipe_ends[1], &step, sizeof(step)) != sizeof(step)) ::_exit(1);
      }
    }
    ::close(pipe_ends[1]);
    ::usleep(2000 + 1700 * static_cast<useconds_t>(round));
    ::kill(child, SIGKILL);
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFSIGNALED(status)) << "the child failed by itself";
    for (int64_t step = 0; ::read(pipe_ends[0], &step, sizeof(step)) == sizeof(step);) {
      published = step;
    }
    ::close(pipe_ends[0]);

    ASSERT_OK(writer_.RemoveLeftovers());
    ASSERT_OK_AND_ASSIGN(const auto entries, ListCheckpoints(checkpoints_));
    ASSERT_FALSE(entries.empty());
    EXPECT_GE(entries[0].step, published) << "a published checkpoint is gone";
    for (const CheckpointEntry& entry : entries) {
      ASSERT_OK_AND_ASSIGN(const CheckpointReader reader, CheckpointReader::Open(entry.folder));
      const CheckpointContent expected = SmallContent(entry.step, /*seed=*/entry.step);
      NamedState state = BlankOf(expected.state);
      ASSERT_OK(reader.Load(UnaskedTensors::kRefuse, state));
      ExpectSameBits("embedding", state.tensors[0].shard, expected.state.tensors[0].shard);
    }
    published = entries[0].step;
  }
}

}  // namespace
}  // namespace plait
