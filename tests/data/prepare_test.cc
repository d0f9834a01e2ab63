#include "data/prepare.h"

#include <filesystem>
#include <map>

#include "base/digest.h"
#include "base/durable_file.h"
#include "data/heldout_reader.h"
#include "data/prepared_manifest.h"
#include "data/prepared_tokens.h"
#include "data/tokenizer.h"
#include "tests/data/prepared_sample.h"
#include "tests/data/tokenizer_fixtures.h"
#include "tests/support/status_matchers.h"

namespace plait {
namespace {

using ::testing::HasSubstr;

namespace fs = std::filesystem;

TEST(PrepareTest, OutputIsTheSameForAnyNumberOfThreads) {
  SampleCorpus corpus(40);
  PrepareOptions options = corpus.Options("one");
  options.num_threads = 1;
  options.shard_tokens = 2000;
  ASSERT_OK(Prepare(options));
  options.output = corpus.File("two");
  options.num_threads = 2;
  ASSERT_OK(Prepare(options));
  const auto digests = Digests(corpus.File("one"));
  EXPECT_EQ(digests, Digests(corpus.File("two")));
  EXPECT_TRUE(digests.contains("train-00002.h5"));
  EXPECT_OK(VerifyPrepared(corpus.File("one")));
}

TEST(PrepareTest, ShardsHoldEveryDocumentOnceInOrder) {
  SampleCorpus corpus(30);
  PrepareOptions options = corpus.Options("out");
  options.shard_tokens = 1500;
  options.heldout_fraction = 0.2;
  ASSERT_OK_AND_ASSIGN(const PrepareResult result, Prepare(options));
  ASSERT_OK_AND_ASSIGN(const Tokenizer tokenizer,
                       Tokenizer::Load(corpus.File("out/tokenizer.model")));
  std::vector<std::string> texts[2];
  int64_t bytes[2] = {0, 0};
  for (DataSplit split : {DataSplit::kTrain, DataSplit::kHeldout}) {
    const int s = split == DataSplit::kTrain ? 0 : 1;
    ASSERT_OK_AND_ASSIGN(const PreparedTokens tokens,
                         PreparedTokens::Open(corpus.File("out"), split));
    for (int64_t d = 0; d < tokens.num_documents(); ++d) {
      const int64_t begin = tokens.DocumentOffset(d), count = tokens.DocumentOffset(d + 1) - begin;
      std::vector<int32_t> ids(static_cast<size_t>(count));
      ASSERT_OK(tokens.Copy(begin, count, ids.data()));
      EXPECT_EQ(ids.front(), tokenizer.bos_id());
      EXPECT_EQ(ids.back(), tokenizer.eos_id());
      for (int32_t id : ids) bytes[s] += tokens.byte_lengths()[static_cast<size_t>(id)];
      texts[s].push_back(*tokenizer.Decode(ids));
    }
  }
  EXPECT_EQ(result.train.documents, static_cast<int64_t>(texts[0].size()));
  EXPECT_EQ(result.heldout.documents, static_cast<int64_t>(texts[1].size()));
  EXPECT_EQ(result.train.text_bytes, bytes[0]);
  EXPECT_EQ(result.heldout.text_bytes, bytes[1]);
  EXPECT_GT(result.train.bytes_per_token(), 1.5);
  EXPECT_GE(texts[1].size(), 1u);
  EXPECT_TRUE(result.tokenizer_was_trained);
  // The splits together are the corpus, each in its order.
  size_t next[2] = {0, 0};
  for (const std::string& text : corpus.texts()) {
    const int s = next[0] < texts[0].size() && texts[0][next[0]] == text ? 0 : 1;
    ASSERT_LT(next[s], texts[s].size());
    EXPECT_EQ(texts[s][next[s]++], text);
  }
}

TEST(PrepareTest, ATokenizerJsonIsTakenAndKept) {
  SampleCorpus corpus(12);
  PrepareOptions options = corpus.Options("out");
  fs::create_directory(corpus.File("given"));
  ASSERT_OK(WriteFileDurably(corpus.File("given/tokenizer.json"), ReadFixture("metaspace.json")));
  const std::string config = R"({"bos_token":"<s>","eos_token":"</s>"})";
  ASSERT_OK(WriteFileDurably(corpus.File("given/tokenizer_config.json"), config));
  options.tokenizer = corpus.File("given/tokenizer.json");
  ASSERT_OK_AND_ASSIGN(const PrepareResult result, Prepare(options));
  EXPECT_FALSE(result.tokenizer_was_trained);
  ASSERT_OK_AND_ASSIGN(const PreparedManifest manifest, ReadManifest(corpus.File("out")));
  EXPECT_EQ(manifest.tokenizer.name, "tokenizer.json");
  EXPECT_OK(VerifyPrepared(corpus.File("out")));
  EXPECT_EQ(*ReadWholeFile(corpus.File("out/tokenizer_config.json"), 1000), config);
  ASSERT_OK_AND_ASSIGN(const Tokenizer tokenizer,
                       Tokenizer::Load(corpus.File("out/tokenizer.json")));
  ASSERT_OK_AND_ASSIGN(const PreparedTokens tokens,
                       PreparedTokens::Open(corpus.File("out"), DataSplit::kTrain));
  EXPECT_EQ(tokens.num_documents() > 0, true);
  int64_t text_bytes = 0;
  for (int64_t d = 0; d < tokens.num_documents(); ++d) {
    const int64_t begin = tokens.DocumentOffset(d), count = tokens.DocumentOffset(d + 1) - begin;
    std::vector<int32_t> ids(static_cast<size_t>(count));
    ASSERT_OK(tokens.Copy(begin, count, ids.data()));
    EXPECT_EQ(ids.front(), 1);
    EXPECT_EQ(ids.back(), 2);
    const std::string text = *tokenizer.Decode(ids);
    EXPECT_THAT(corpus.texts(), ::testing::Contains(text));
    text_bytes += static_cast<int64_t>(text.size());
  }
  EXPECT_EQ(result.train.text_bytes, text_bytes);

  options.output = corpus.File("bare");
  options.tokenizer = corpus.File("given/bare.json");
  ASSERT_OK(WriteFileDurably(options.tokenizer, R"({"model":{"vocab":{"a":0},"merges":[]}})"));
  fs::remove(corpus.File("given/tokenizer_config.json"));
  EXPECT_THAT(Prepare(options), StatusIs(absl::StatusCode::kFailedPrecondition,
                                         HasSubstr("which token begins a document")));
}

TEST(PrepareTest, HeldOutInputIsTakenWhole) {
  SampleCorpus corpus(10);
  ASSERT_OK(WriteFileDurably(corpus.File("h.txt"), "held out text"));
  PrepareOptions options = corpus.Options("out");
  options.heldout_inputs = {corpus.File("h.txt")};
  ASSERT_OK_AND_ASSIGN(const PrepareResult result, Prepare(options));
  EXPECT_EQ(result.train.documents, 10);
  EXPECT_EQ(result.heldout.documents, 1);
  EXPECT_EQ(result.heldout.text_bytes, 13);
}

TEST(PrepareTest, GivenTokenizerIsUsedAndCopied) {
  SampleCorpus corpus(10);
  ASSERT_OK(WriteFileDurably(corpus.File("t.model"), TrainedModel(300)));
  PrepareOptions options = corpus.Options("out");
  options.tokenizer = corpus.File("t.model");
  ASSERT_OK_AND_ASSIGN(const PrepareResult result, Prepare(options));
  EXPECT_EQ(result.vocabulary_size, 300);
  EXPECT_FALSE(result.tokenizer_was_trained);
  EXPECT_EQ(*DigestOfFile(corpus.File("t.model")),
            *DigestOfFile(corpus.File("out/tokenizer.model")));
}

TEST(PrepareTest, TokenizerSampleIsDeterministicAndSmaller) {
  SampleCorpus corpus(40);
  PrepareOptions options = corpus.Options("whole");
  ASSERT_OK(Prepare(options));
  options.output = corpus.File("part");
  options.tokenizer_training_bytes = 20'000;
  ASSERT_OK(Prepare(options));
  options.output = corpus.File("again");
  ASSERT_OK(Prepare(options));
  EXPECT_EQ(Digests(corpus.File("part")), Digests(corpus.File("again")));
  EXPECT_NE(*DigestOfFile(corpus.File("part/tokenizer.model")),
            *DigestOfFile(corpus.File("whole/tokenizer.model")));
}

TEST(PrepareTest, ReportsProgressOfEveryStage) {
  SampleCorpus corpus(5);
  std::map<std::string, int64_t> done;
  ASSERT_OK(Prepare(corpus.Options("out"), [&done](const PrepareProgress& progress) {
    EXPECT_LE(progress.bytes_done, progress.bytes_total);
    done[std::string(progress.stage)] = progress.bytes_done;
  }));
  EXPECT_EQ(done.size(), 4u);
  EXPECT_GT(done["tokenise"], 0);
  EXPECT_EQ(done["scan"], done["tokenise"]);
  EXPECT_GT(done["write shards"], 0);
}

TEST(PrepareTest, FailuresNameTheCauseAndLeaveNothing) {
  SampleCorpus corpus(3);
  const PrepareOptions good = corpus.Options("out");
  const auto expect = [&](const PrepareOptions& options, absl::StatusCode code,
                          const std::string& text) {
    EXPECT_THAT(Prepare(options), StatusIs(code, HasSubstr(text)));
    EXPECT_FALSE(fs::exists(corpus.File("out")));
    EXPECT_FALSE(fs::exists(corpus.File("out.partial")));
  };
  PrepareOptions options = good;
  options.inputs = {corpus.File("missing")};
  expect(options, absl::StatusCode::kNotFound, "missing: no such file or folder");
  options = good;
  options.inputs = {};
  expect(options, absl::StatusCode::kInvalidArgument, "no input");
  options = good;
  options.heldout_fraction = 1;
  expect(options, absl::StatusCode::kInvalidArgument, "held-out fraction 1 is not in [0, 1)");
  options = good;
  options.vocabulary_size = 30'000;
  expect(options, absl::StatusCode::kInvalidArgument, "asked for 30000");
  options = good;
  options.tokenizer = corpus.File("none.model");
  expect(options, absl::StatusCode::kNotFound, "none.model");
  options = good;
  options.heldout_inputs = {corpus.File("missing")};
  expect(options, absl::StatusCode::kNotFound, "missing");
  ASSERT_OK(WriteFileDurably(corpus.File("single.txt"), SampleText(1, 3000)));
  options = good;
  options.inputs = {corpus.File("single.txt")};
  expect(options, absl::StatusCode::kInvalidArgument, "1 document leaves none to train on");
  ASSERT_OK(WriteFileDurably(corpus.File("corpus/z.txt"), "ab\xff"));
  expect(good, absl::StatusCode::kInvalidArgument, "corpus/z.txt: invalid UTF-8 at byte 2");
  fs::remove(corpus.File("corpus/z.txt"));
  ASSERT_OK(Prepare(good));
  EXPECT_THAT(Prepare(good),
              StatusIs(absl::StatusCode::kAlreadyExists, HasSubstr("out: exists already")));
}

TEST(PreparedTokensTest, DamageIsFoundAndNamed) {
  SampleCorpus corpus(8);
  ASSERT_OK(Prepare(corpus.Options("out")));
  const std::string shard = corpus.File("out/train-00000.h5");
  EXPECT_OK(VerifyPrepared(corpus.File("out")));
  const std::string bytes = *ReadWholeFile(shard, 1 << 30);

  std::string flipped = bytes;
  flipped[flipped.size() / 2] ^= 0x40;
  ASSERT_OK(WriteFileDurably(shard, flipped));
  EXPECT_THAT(VerifyPrepared(corpus.File("out")),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("train-00000.h5: damaged")));
  EXPECT_OK(VerifyPrepared(corpus.File("out"), /*max_shard_bytes=*/100));

  // Whatever the length, a cut shard is refused at opening.
  for (size_t size : {size_t{0}, size_t{100}, bytes.size() / 2, bytes.size() - 1}) {
    ASSERT_OK(WriteFileDurably(shard, bytes.substr(0, size)));
    EXPECT_THAT(PreparedTokens::Open(corpus.File("out"), DataSplit::kTrain),
                StatusIs(absl::StatusCode::kDataLoss, HasSubstr("train-00000.h5: expected")));
  }
  ASSERT_OK(WriteFileDurably(shard, std::string(bytes.size(), 'x')));
  EXPECT_THAT(
      PreparedTokens::Open(corpus.File("out"), DataSplit::kTrain),
      StatusIs(absl::StatusCode::kDataLoss, HasSubstr("train-00000.h5: cannot be opened as HDF5")));
  fs::remove(shard);
  EXPECT_THAT(PreparedTokens::Open(corpus.File("out"), DataSplit::kTrain),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("train-00000.h5")));
}

TEST(PreparedTokensTest, BadManifestsAreRefused) {
  TemporaryFolder folder;
  EXPECT_THAT(ReadManifest(folder.File("none")),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("plait prepare")));
  const std::string path = folder.File("manifest.json");
  for (const char* text :
       {"", "{", "[]", "{\"schema\": \"other\", \"version\": 1}",
        "{\"schema\": \"plait.prepared\", \"version\": 2}",
        "{\"schema\": \"plait.prepared\", \"version\": 1}",
        "{\"schema\": \"plait.prepared\", \"version\": 1, \"tokenizer\": 3, \"vocabulary\": {}}"}) {
    ASSERT_OK(WriteFileDurably(path, text));
    EXPECT_THAT(ReadManifest(folder.path()),
                StatusIs(absl::StatusCode::kDataLoss, HasSubstr("manifest.json")))
        << text;
  }
  PreparedManifest manifest;
  manifest.tokenizer = {"../tokenizer.model", 1, "a"};
  manifest.vocabulary = {"vocabulary.h5", 1, "b"};
  ASSERT_OK(WriteManifest(folder.path(), manifest));
  EXPECT_THAT(ReadManifest(folder.path()),
              StatusIs(absl::StatusCode::kDataLoss,
                       HasSubstr("file: is not the name of a file in the folder")));
}

TEST(HeldoutReaderTest, CountsEveryByteOnce) {
  SampleCorpus corpus(20);
  PrepareOptions options = corpus.Options("out");
  options.heldout_fraction = 0.4;
  ASSERT_OK_AND_ASSIGN(const PrepareResult result, Prepare(options));
  for (int64_t row_tokens : {1, 7, 64, 100'000}) {
    ASSERT_OK_AND_ASSIGN(const HeldoutReader reader,
                         HeldoutReader::Open(corpus.File("out"), row_tokens, 0));
    int64_t bytes = 0, real = 0;
    double weight = 0;
    for (int64_t row = 0; row < reader.num_rows(); row += 5) {
      ASSERT_OK_AND_ASSIGN(const HeldoutBatch part,
                           reader.Read(row, std::min<int64_t>(5, reader.num_rows() - row)));
      bytes += part.text_bytes;
      real += part.batch.real_tokens;
      weight += part.batch.weight_sum;
    }
    EXPECT_EQ(bytes, result.heldout.text_bytes);
    EXPECT_EQ(real, result.heldout.tokens);
    EXPECT_EQ(weight, static_cast<double>(result.heldout.tokens - result.heldout.documents));
  }
}

TEST(HeldoutReaderTest, FewerTokensAreSpreadOverTheSplit) {
  SampleCorpus corpus(20);
  PrepareOptions options = corpus.Options("out");
  options.heldout_fraction = 0.4;
  ASSERT_OK(Prepare(options));
  ASSERT_OK_AND_ASSIGN(const HeldoutReader all, HeldoutReader::Open(corpus.File("out"), 16, 0));
  ASSERT_GE(all.num_rows(), 30);
  ASSERT_OK_AND_ASSIGN(const HeldoutReader some, HeldoutReader::Open(corpus.File("out"), 16, 160));
  EXPECT_EQ(some.num_rows(), 10);
  const auto first_token = [](const HeldoutReader& reader, int64_t row) {
    return reader.Read(row, 1)->batch.tokens.Clone();
  };
  for (int64_t row = 0; row < 10; ++row) {
    const Tensor a = first_token(some, row), b = first_token(all, all.num_rows() * row / 10);
    EXPECT_TRUE(std::equal(a.values<int32_t>().begin(), a.values<int32_t>().end(),
                           b.values<int32_t>().begin()));
  }
  EXPECT_THAT(HeldoutReader::Open(corpus.File("out"), 0, 0),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("rows of 0 tokens")));
}

}  // namespace
}  // namespace plait
