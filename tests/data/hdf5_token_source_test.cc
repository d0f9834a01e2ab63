#include "data/hdf5_token_source.h"

#include <algorithm>
#include <filesystem>
#include <map>
#include <set>

#include "base/hdf5_file.h"
#include "data/keyed_permutation.h"
#include "data/prefetching_loader.h"
#include "data/sequence_packing.h"
#include "data/shard_builder.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temporary_folder.h"

namespace plait {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr int32_t kBos = 1, kEos = 2;

// Training shards with these texts.
std::vector<ManifestShard> WriteShards(const std::string& folder,
                                       const std::vector<std::vector<int32_t>>& texts,
                                       int64_t vocabulary, int64_t shard_tokens) {
  const TemporaryFolder parts;
  TokenPartWriter part = *TokenPartWriter::Create(parts.path(), "train", /*rank=*/0);
  for (const std::vector<int32_t>& text : texts) PLAIT_CHECK(part.Add(kBos, text, kEos, 0).ok());
  PLAIT_CHECK(part.Close().ok());
  const auto plans = PlanShards(parts.path(), "train", /*ranks=*/1, shard_tokens);
  PLAIT_CHECK(plans.ok());
  std::vector<ManifestShard> shards;
  for (const PlannedShard& plan : *plans) {
    shards.push_back(*BuildShard(parts.path(), plan, folder, "digest", vocabulary));
  }
  return shards;
}

// Shards of documents whose text tokens are all different, so that a token tells its document and
// place.
class NumberedData {
 public:
  NumberedData(int64_t documents, int64_t shard_tokens) {
    const RandomKey key(7, RandomPurpose::kTest);
    const int64_t vocabulary = 70'000;  // u32 shards
    std::vector<std::vector<int32_t>> texts;
    int32_t next = 3;
    for (int64_t d = 0; d < documents; ++d) {
      std::vector<int32_t> text(key.Words(static_cast<uint64_t>(d))[0] % 40);
      for (int32_t& token : text) token = next++;
      texts.push_back(text);
      last_of_[text.empty() ? -1 : text.back()] = d;
    }
    num_text_tokens_ = next - 3;
    Hdf5File file = *Hdf5File::Create(folder_.File("vocabulary.h5"));
    PLAIT_CHECK(file.Write<int32_t>("byte_length", std::vector<int32_t>(vocabulary, 1),
                                    Hdf5Layout::kContiguous)
                    .ok());
    PLAIT_CHECK(file.Close().ok());
    PreparedManifest manifest;
    manifest.tokenizer = {"tokenizer.model", 0, "digest"};
    manifest.vocabulary = {"vocabulary.h5", 0, "x"};
    manifest.vocabulary_size = vocabulary;
    manifest.bos_id = kBos;
    manifest.eos_id = kEos;
    manifest.train = WriteShards(folder_.path(), texts, vocabulary, shard_tokens);
    PLAIT_CHECK(WriteManifest(folder_.path(), manifest).ok());
  }

  const std::string& path() const { return folder_.path(); }
  std::string File(const std::string& name) const { return folder_.File(name); }
  int64_t num_text_tokens() const { return num_text_tokens_; }

 private:
  TemporaryFolder folder_;
  std::map<int32_t, int64_t> last_of_;
  int64_t num_text_tokens_ = 0;
};

std::vector<Row> EpochRows(const Hdf5TokenSource& source, int64_t row_tokens, int64_t epoch,
                           int64_t stage = 0) {
  const int64_t windows = source.NumWindows(row_tokens);
  std::vector<Row> rows(static_cast<size_t>(windows));
  for (int64_t w = 0; w < windows; ++w) {
    PLAIT_CHECK(
        source
            .ReadRow({stage, row_tokens, 1}, epoch * windows + w, 0, &rows[static_cast<size_t>(w)])
            .ok());
  }
  return rows;
}

TEST(KeyedPermutationTest, IsABijectionOfAnySize) {
  for (int64_t size : {1, 2, 3, 4, 5, 16, 17, 1000, 4096, 5000}) {
    const KeyedPermutation permutation(RandomKey(3, RandomPurpose::kTest), size);
    std::set<int64_t> images;
    for (int64_t i = 0; i < size; ++i) images.insert(permutation(i));
    EXPECT_EQ(static_cast<int64_t>(images.size()), size);
    EXPECT_EQ(*images.begin(), 0);
    EXPECT_EQ(*images.rbegin(), size - 1);
  }
  const KeyedPermutation large(RandomKey(3, RandomPurpose::kTest), (int64_t{1} << 40) + 7);
  EXPECT_LT(large(int64_t{1} << 40), (int64_t{1} << 40) + 7);
}

TEST(KeyedPermutationTest, MixesNeighboursAndDependsOnTheKey) {
  constexpr int64_t kSize = 10'000;
  const KeyedPermutation a(RandomKey(3, RandomPurpose::kTest), kSize),
      b(RandomKey(4, RandomPurpose::kTest), kSize);
  int64_t near = 0, equal = 0;
  for (int64_t i = 0; i + 1 < kSize; ++i) {
    near += std::abs(a(i) - a(i + 1)) < 100;
    equal += a(i) == b(i);
  }
  // A random permutation has about 2 % of its neighbours that near, and one common point.
  EXPECT_LT(near, 350);
  EXPECT_LT(equal, 10);
}

TEST(DocumentOrderTest, WalksEveryDocumentWholeInAnotherOrder) {
  const std::vector<int64_t> offsets = {0, 3, 4, 9, 11, 18, 19, 22};
  const auto offset = [&](int64_t d) { return offsets[static_cast<size_t>(d)]; };
  std::set<std::vector<int64_t>> orders;
  for (uint64_t seed = 0; seed < 200; ++seed) {
    const DocumentOrder order(7, offset, RandomKey(seed, RandomPurpose::kTest));
    std::vector<int64_t> documents;
    for (int64_t position = 0; position < 22;) {
      const DocumentOrder::Place place = order.At(position);
      EXPECT_EQ(place.token, 0);
      documents.push_back(place.document);
      const int64_t end = position + offset(place.document + 1) - offset(place.document);
      for (int64_t token = 0; position < end; ++position, ++token) {
        EXPECT_EQ(order.At(position).document, documents.back());
        EXPECT_EQ(order.At(position).token, token);
      }
    }
    EXPECT_EQ(std::set<int64_t>(documents.begin(), documents.end()).size(), 7u);
    orders.insert(documents);
  }
  EXPECT_GT(orders.size(), 50u);  // of 2^6
  EXPECT_EQ(DocumentOrder(7, offset, std::nullopt).At(10).document, 3);
}

TEST(Hdf5TokenSourceTest, EveryTokenComesOnceAnEpochAndIsPredictedOnce) {
  const NumberedData data(120, 500);
  ASSERT_OK_AND_ASSIGN(const auto source, Hdf5TokenSource::Open(data.path(), 5));
  for (int64_t row_tokens : {1, 10, 64, 100'000}) {
    std::map<int32_t, int> seen, predicted;
    int64_t padding = 0;
    double weights = 0;
    for (const Row& row : EpochRows(*source, row_tokens, 0)) {
      padding += row_tokens - static_cast<int64_t>(row.tokens.size());
      for (size_t t = 0; t < row.tokens.size(); ++t) {
        ++seen[row.tokens[t]];
        if (row.weights[t] > 0) ++predicted[row.targets[t]];
        weights += row.weights[t];
      }
    }
    EXPECT_LT(padding, row_tokens);
    EXPECT_EQ(seen[kBos], 120);
    EXPECT_EQ(seen[kEos], 120);
    EXPECT_EQ(predicted[kBos], 0);
    EXPECT_EQ(predicted[kEos], 120);
    for (int32_t token = 3; token < 3 + data.num_text_tokens(); ++token) {
      ASSERT_EQ(seen[token], 1);
      ASSERT_EQ(predicted[token], 1);
    }
    EXPECT_EQ(weights, static_cast<double>(data.num_text_tokens() + 120));
  }
}

TEST(Hdf5TokenSourceTest, TargetsFollowAndPiecesAreTheirOwnDocuments) {
  const NumberedData data(120, 500);
  ASSERT_OK_AND_ASSIGN(const auto source, Hdf5TokenSource::Open(data.path(), 5));
  for (const Row& row : EpochRows(*source, 33, 0)) {
    const std::set<int64_t> starts(row.document_starts.begin(), row.document_starts.end());
    EXPECT_TRUE(starts.contains(0));
    for (size_t t = 0; t < row.tokens.size(); ++t) {
      const bool next_starts =
          t + 1 == row.tokens.size() || starts.contains(static_cast<int64_t>(t) + 1);
      EXPECT_EQ(row.weights[t] == 0, row.tokens[t] == kEos);
      if (row.tokens[t] == kEos) {
        EXPECT_TRUE(next_starts);
      } else if (!next_starts) {
        EXPECT_EQ(row.targets[t], row.tokens[t + 1]);
      } else if (row.tokens[t] != kBos && row.targets[t] != kEos) {
        EXPECT_EQ(row.targets[t], row.tokens[t] + 1);  // text tokens are consecutive numbers
      }
    }
  }
}

TEST(Hdf5TokenSourceTest, EpochsStagesAndSeedsDiffer) {
  const NumberedData data(120, 500);
  ASSERT_OK_AND_ASSIGN(const auto source, Hdf5TokenSource::Open(data.path(), 5));
  ASSERT_OK_AND_ASSIGN(const auto again, Hdf5TokenSource::Open(data.path(), 5));
  ASSERT_OK_AND_ASSIGN(const auto other, Hdf5TokenSource::Open(data.path(), 6));
  const auto flat = [](const std::vector<Row>& rows) {
    std::vector<int32_t> tokens;
    for (const Row& row : rows) tokens.insert(tokens.end(), row.tokens.begin(), row.tokens.end());
    return tokens;
  };
  const std::vector<int32_t> first = flat(EpochRows(*source, 32, 0));
  EXPECT_EQ(first, flat(EpochRows(*again, 32, 0)));
  EXPECT_NE(first, flat(EpochRows(*source, 32, 1)));
  EXPECT_NE(first, flat(EpochRows(*source, 32, 0, /*stage=*/1)));
  EXPECT_NE(first, flat(EpochRows(*other, 32, 0)));
}

TEST(Hdf5TokenSourceTest, AnotherTokenizerIsRefused) {
  const NumberedData data(3, 500);
  EXPECT_OK(Hdf5TokenSource::Open(data.path(), 5, "digest"));
  EXPECT_THAT(
      Hdf5TokenSource::Open(data.path(), 5, "other"),
      StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("prepared with tokenizer digest")));
  EXPECT_THAT(PreparedTokens::Open(data.path(), DataSplit::kHeldout),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("no held-out shards")));
}

TEST(Hdf5TokenSourceTest, IdOutsideTheVocabularyNamesTheShard) {
  const NumberedData data(3, 500);
  ASSERT_OK_AND_ASSIGN(PreparedManifest manifest, ReadManifest(data.path()));
  std::filesystem::remove(data.File("train-00000.h5"));
  manifest.train = WriteShards(data.path(), {{80'000}}, manifest.vocabulary_size, 500);
  ASSERT_OK(WriteManifest(data.path(), manifest));
  ASSERT_OK_AND_ASSIGN(const auto source, Hdf5TokenSource::Open(data.path(), 5));
  Row row;
  EXPECT_THAT(source->ReadRow({0, 8, 1}, 0, 0, &row),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("train-00000.h5: token 1 is 80000")));
}

TEST(SequencePackingTest, PadsRowsAndMarksEveryStart) {
  const Row rows[] = {{{1, 5, 2, 1}, {5, 2, 0, 6}, {1, 1, 0, 0.5f}, {0, 3}},
                      {{1, 2}, {2, 0}, {1, 0}, {0}}};
  const Batch batch = PackRows(rows, 4);
  const auto list = [](auto span) { return std::vector(span.begin(), span.end()); };
  EXPECT_THAT(list(batch.tokens.values<int32_t>()),
              ElementsAre(1, 5, 2, 1, 1, 2, kPaddingToken, kPaddingToken));
  EXPECT_THAT(list(batch.targets.values<int32_t>()), ElementsAre(5, 2, 0, 6, 2, 0, 0, 0));
  EXPECT_THAT(list(batch.token_weight.values<float>()), ElementsAre(1, 1, 0, 0.5f, 1, 0, 0, 0));
  EXPECT_THAT(list(batch.document_offsets.values<int32_t>()), ElementsAre(0, 3, 4, 6, 8));
  EXPECT_EQ(batch.weight_sum, 3.5);
  EXPECT_EQ(batch.real_tokens, 6);
}

std::vector<int32_t> TokensOf(const Batch& batch) {
  return {batch.tokens.values<int32_t>().begin(), batch.tokens.values<int32_t>().end()};
}

// Microbatches by leaf of each step, put together from all ranks.
std::map<std::pair<int64_t, int64_t>, std::vector<int32_t>> Leaves(const DataSource& source,
                                                                   int64_t ranks,
                                                                   int64_t first_step,
                                                                   int64_t end_step) {
  std::map<std::pair<int64_t, int64_t>, std::vector<int32_t>> leaves;
  for (int64_t rank = 0; rank < ranks; ++rank) {
    LoaderOptions options{.rows = {.stage = 1, .row_tokens = 16, .rows_per_step = 24},
                          .rows_per_microbatch = 2,
                          .data_parallel_rank = rank,
                          .data_parallel_size = ranks,
                          .first_step = first_step,
                          .end_step = end_step};
    const auto loader = *PrefetchingLoader::Create(source, options);
    for (int64_t step = first_step; step < end_step; ++step) {
      const std::vector<Batch> batches = *loader->NextStep();
      for (size_t j = 0; j < batches.size(); ++j) {
        leaves[{step, static_cast<int64_t>(j) * ranks + rank}] = TokensOf(batches[j]);
      }
    }
    EXPECT_THAT(loader->NextStep(),
                StatusIs(absl::StatusCode::kOutOfRange, HasSubstr("no step after")));
  }
  return leaves;
}

TEST(PrefetchingLoaderTest, OrderDoesNotDependOnRanksOrOnWhereItStarts) {
  const NumberedData data(120, 500);
  ASSERT_OK_AND_ASSIGN(const auto source, Hdf5TokenSource::Open(data.path(), 5));
  const auto alone = Leaves(*source, 1, 0, 12);
  EXPECT_EQ(alone.size(), 12u * 12);
  for (int64_t ranks : {2, 3, 4, 6, 12}) EXPECT_EQ(alone, Leaves(*source, ranks, 0, 12));
  for (const auto& [place, tokens] : Leaves(*source, 2, 7, 12)) EXPECT_EQ(alone.at(place), tokens);
}

TEST(PrefetchingLoaderTest, StopsWhileItsQueueIsFull) {
  const NumberedData data(20, 500);
  ASSERT_OK_AND_ASSIGN(const auto source, Hdf5TokenSource::Open(data.path(), 5));
  for (int repeat = 0; repeat < 50; ++repeat) {
    ASSERT_OK_AND_ASSIGN(
        const auto loader,
        PrefetchingLoader::Create(*source, {.rows = {0, 16, 4}, .end_step = 1'000'000'000}));
    if (repeat % 2 == 0) {
      EXPECT_OK(loader->NextStep());
    }
    EXPECT_EQ(loader->microbatches_per_step(), 4);
    EXPECT_GE(loader->TakeWaitSeconds(), 0.0);
  }
}

class FailingSource : public DataSource {
 public:
  absl::Status ReadRow(const StageRows&, int64_t step, int64_t, Row* out) const override {
    if (step == 3) return absl::DataLossError("shard.h5: broken");
    *out = {{1, 2}, {2, 0}, {1, 0}, {0}};
    return absl::OkStatus();
  }
  int64_t vocabulary_size() const override { return 3; }
  const std::string& tokenizer_digest() const override { return digest_; }
  std::string fingerprint() const override { return ""; }

 private:
  std::string digest_;
};

TEST(PrefetchingLoaderTest, ErrorsComeInTheirTurnWithTheirStep) {
  const FailingSource source;
  ASSERT_OK_AND_ASSIGN(const auto loader,
                       PrefetchingLoader::Create(source, {.rows = {0, 2, 1}, .end_step = 10}));
  for (int step = 0; step < 3; ++step) EXPECT_OK(loader->NextStep());
  for (int repeat = 0; repeat < 2; ++repeat) {
    EXPECT_THAT(loader->NextStep(), StatusIs(absl::StatusCode::kDataLoss,
                                             HasSubstr("data of step 3 row 0: shard.h5: broken")));
  }
}

TEST(PrefetchingLoaderTest, RefusesRowsThatDoNotDivide) {
  const FailingSource source;
  EXPECT_THAT(
      PrefetchingLoader::Create(
          source,
          {.rows = {0, 2, 10}, .rows_per_microbatch = 2, .data_parallel_size = 3, .end_step = 1}),
      StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("does not divide rows per step 10")));
  EXPECT_THAT(PrefetchingLoader::Create(source, {.rows = {0, 0, 10}, .end_step = 1}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("row_tokens 0")));
}

}  // namespace
}  // namespace plait
