// Prepare over ranks that are threads: the same bytes for any number of them, and failures that end
// all.
#include <algorithm>
#include <filesystem>
#include <functional>
#include <map>

#include "base/durable_file.h"
#include "data/prepare.h"
#include "data/prepared_manifest.h"
#include "parallel/local_communicator.h"
#include "tests/data/prepared_sample.h"
#include "tests/support/compress.h"
#include "tests/support/status_matchers.h"

namespace plait {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

namespace fs = std::filesystem;

using Show = std::function<void(const PrepareProgress&)>;

// Prepares on `ranks` ranks; every rank's status must be the same. Returns rank 0's result.
absl::StatusOr<PrepareResult> PrepareOnRanks(int ranks, PrepareOptions options,
                                             const Show& show = nullptr) {
  options.num_threads = 1;
  std::vector<absl::StatusOr<PrepareResult>> results(ranks);
  const absl::Status run =
      RunLocalRanks(ranks, [&](const std::shared_ptr<Communicator>& world) -> absl::Status {
        PrepareOptions own = options;
        own.world = world;
        results[world->rank()] = Prepare(own, show);
        return absl::OkStatus();
      });
  EXPECT_OK(run);
  for (const auto& result : results) EXPECT_EQ(result.status(), results[0].status());
  return results[0];
}

void ExpectNothingLeft(const PrepareOptions& options) {
  EXPECT_FALSE(fs::exists(options.output));
  EXPECT_FALSE(fs::exists(options.output + ".partial"));
}

// The same folder of files with every file packed, gzip and zstandard in turn.
void PackFolder(const std::string& from, const std::string& to) {
  int number = 0;
  for (const auto& entry : fs::recursive_directory_iterator(from)) {
    if (!entry.is_regular_file() || entry.path().filename().string().front() == '.') continue;
    const std::string text = *ReadWholeFile(entry.path().string(), 1 << 30);
    const std::string path = to + "/" + entry.path().lexically_relative(from).string();
    fs::create_directories(fs::path(path).parent_path());
    const bool gzip = number++ % 2 == 0;
    PLAIT_CHECK(
        WriteFileDurably(path + (gzip ? ".gz" : ".zst"), gzip ? Gzip(text) : Zstandard(text)).ok());
  }
}

TEST(PrepareRanksTest, BytesAreTheSameForAnyNumberOfRanks) {
  SampleCorpus corpus(60);
  ASSERT_OK(
      WriteFileDurably(corpus.File("h.jsonl"), "{\"text\": \"ka to\"}\n{\"text\": \"mi\"}\n"));
  PrepareOptions sampled = corpus.Options("");
  sampled.shard_tokens = 1500;
  sampled.tokenizer_training_bytes = 20'000;
  PrepareOptions heldout_given = corpus.Options("");
  heldout_given.heldout_inputs = {corpus.File("h.jsonl")};
  PrepareOptions one_heldout = corpus.Options("");
  one_heldout.heldout_fraction = 1e-9;
  int number = 0;
  for (PrepareOptions options : {sampled, heldout_given, one_heldout}) {
    std::map<std::string, std::string> expected;
    for (int ranks : {1, 2, 3, 4, 9}) {
      options.output = corpus.File("out" + std::to_string(number++));
      ASSERT_OK_AND_ASSIGN(const PrepareResult result, PrepareOnRanks(ranks, options));
      const auto digests = Digests(options.output);
      if (ranks == 1) expected = digests;
      EXPECT_EQ(digests, expected) << ranks << " ranks";
      EXPECT_EQ(result.train.documents + result.heldout.documents,
                options.heldout_inputs.empty() ? 60 : 62);
      EXPECT_OK(VerifyPrepared(options.output));
      EXPECT_FALSE(fs::exists(options.output + ".partial"));
    }
    EXPECT_GE(expected.size(), 5u);
  }
}

TEST(PrepareRanksTest, CompressedInputGivesTheSameBytes) {
  SampleCorpus corpus(40);
  PackFolder(corpus.File("corpus"), corpus.File("packed"));
  PrepareOptions options = corpus.Options("plain");
  ASSERT_OK(PrepareOnRanks(1, options));
  options.inputs = {corpus.File("packed")};
  for (int ranks : {1, 3}) {
    options.output = corpus.File("packed-" + std::to_string(ranks));
    ASSERT_OK(PrepareOnRanks(ranks, options));
    EXPECT_EQ(Digests(options.output), Digests(corpus.File("plain"))) << ranks;
  }
}

TEST(PrepareRanksTest, ProgressIsThatOfAllRanks) {
  SampleCorpus corpus(40);
  std::map<std::string, PrepareProgress> last;
  ASSERT_OK_AND_ASSIGN(
      const PrepareResult result,
      PrepareOnRanks(3, corpus.Options("out"), [&last](const PrepareProgress& progress) {
        PrepareProgress& before = last[std::string(progress.stage)];
        EXPECT_GE(progress.bytes_done, before.bytes_done);
        EXPECT_LE(progress.bytes_done, progress.bytes_total);
        before = progress;
      }));
  EXPECT_EQ(last.size(), 4u);
  for (const auto& [stage, progress] : last) {
    EXPECT_EQ(progress.bytes_done, progress.bytes_total) << stage;
  }
  EXPECT_EQ(last["tokenise"].tokens_done, result.train.tokens + result.heldout.tokens);
}

TEST(PrepareRanksTest, BadInputOfOneRankEndsAll) {
  SampleCorpus corpus(20);
  const PrepareOptions options = corpus.Options("out");
  const auto expect = [&](const std::string& name, const std::string& content,
                          absl::StatusCode code, const std::string& text) {
    ASSERT_OK(WriteFileDurably(corpus.File("corpus/" + name), content));
    EXPECT_THAT(PrepareOnRanks(3, options), StatusIs(code, HasSubstr(text)));
    ExpectNothingLeft(options);
    fs::remove(corpus.File("corpus/" + name));
  };
  const std::string packed = Gzip(SampleText(5, 500));
  const std::string frame = Zstandard(SampleText(5, 500));
  // "z" sorts last, "0" first.
  expect("z.txt", "ab\xff", absl::StatusCode::kInvalidArgument,
         "rank 2: " + corpus.File("corpus/z.txt") + ": invalid UTF-8 at byte 2");
  expect("z.txt.gz", packed.substr(0, packed.size() / 2), absl::StatusCode::kDataLoss,
         "corpus/z.txt.gz: damaged gzip data");
  expect("0.txt.zst", frame.substr(0, frame.size() / 2), absl::StatusCode::kDataLoss,
         "rank 0: " + corpus.File("corpus/0.txt.zst") + ": damaged zstd data");
  // The line's number is the file's, whichever rank has it.
  std::string lines = *ReadWholeFile(corpus.File("corpus/lines.jsonl"), 1 << 30);
  const auto count = std::count(lines.begin(), lines.end(), '\n');
  expect("lines.jsonl", lines + "[1]\n", absl::StatusCode::kInvalidArgument,
         "lines.jsonl:" + std::to_string(count + 1) + ": not a JSON object");
  // Failures that all ranks share name no rank.
  ASSERT_OK(WriteFileDurably(corpus.File("corpus/lines.jsonl"), lines));
  PrepareOptions large = options;
  large.inputs = {corpus.File("missing")};
  EXPECT_THAT(PrepareOnRanks(2, large),
              StatusIs(absl::StatusCode::kNotFound, Not(HasSubstr("rank"))));
  large = options;
  large.vocabulary_size = 30'000;
  EXPECT_THAT(PrepareOnRanks(2, large),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("asked for 30000")));
  ExpectNothingLeft(options);
}

TEST(PrepareRanksTest, AFileThatVanishesFromOneRankEndsAll) {
  for (int ranks : {1, 2, 3}) {
    SampleCorpus corpus(20);
    const PrepareOptions options = corpus.Options("out");
    // Removed between sampling and tokenising; only ranks with a part of it open it then.
    const auto show = [&corpus](const PrepareProgress& progress) {
      if (progress.stage == "train tokenizer" && progress.bytes_done == progress.bytes_total) {
        fs::remove(corpus.File("corpus/lines.jsonl"));
      }
    };
    EXPECT_THAT(
        PrepareOnRanks(ranks, options, show),
        StatusIs(absl::StatusCode::kNotFound, HasSubstr("corpus/lines.jsonl: cannot be opened")))
        << ranks;
    ExpectNothingLeft(options);
  }
}

TEST(PrepareRanksTest, RanksMustAgreeOnOptions) {
  SampleCorpus corpus(10);
  const absl::Status status =
      RunLocalRanks(2, [&](const std::shared_ptr<Communicator>& world) -> absl::Status {
        PrepareOptions options = corpus.Options("out");
        options.world = world;
        options.seed = static_cast<uint64_t>(world->rank());
        return Prepare(options).status();
      });
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kFailedPrecondition,
                               HasSubstr("the options of rank 1 is not that of rank 0")));
  ExpectNothingLeft(corpus.Options("out"));
}

}  // namespace
}  // namespace plait
