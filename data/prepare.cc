#include "data/prepare.h"

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "base/check.h"
#include "base/durable_file.h"
#include "base/folder_lock.h"
#include "base/hdf5_file.h"
#include "base/status_macros.h"
#include "base/tensor.h"
#include "data/corpus_deal.h"
#include "data/corpus_reader.h"
#include "data/corpus_tokens.h"
#include "data/heldout_choice.h"
#include "data/prepare_ranks.h"
#include "data/prepared_manifest.h"
#include "data/shard_builder.h"
#include "data/tokenizer.h"
#include "data/tokenizer_sample.h"
#include "data/tokenizer_training.h"
#include "parallel/host_collectives.h"
#include "parallel/host_share.h"
#include "parallel/status_agreement.h"

namespace plait {
namespace {

namespace fs = std::filesystem;

constexpr char kTrain[] = "train";
constexpr char kHeldout[] = "heldout";

absl::Status CheckOptions(const PrepareOptions& options) {
  const auto invalid = [](const std::string& what) {
    return absl::InvalidArgumentError("prepare: " + what);
  };
  if (options.inputs.empty()) return invalid("no input given");
  if (options.output.empty()) return invalid("no output folder given");
  if (!(options.heldout_fraction >= 0 && options.heldout_fraction < 1)) {
    return invalid(
        absl::StrCat("held-out fraction ", options.heldout_fraction, " is not in [0, 1)"));
  }
  const auto at_least = [&invalid](const char* what, int64_t value, int64_t minimum) {
    if (value >= minimum) return absl::OkStatus();
    return invalid(absl::StrCat(what, " ", value, " must be at least ", minimum));
  };
  PLAIT_RETURN_IF_ERROR(at_least("tokenizer training bytes", options.tokenizer_training_bytes, 1));
  PLAIT_RETURN_IF_ERROR(at_least("shard tokens", options.shard_tokens, 1));
  PLAIT_RETURN_IF_ERROR(at_least("threads", options.num_threads, 0));
  if (options.tokenizer.empty())
    PLAIT_RETURN_IF_ERROR(CheckVocabularySize(options.vocabulary_size));
  std::error_code error;
  if (fs::exists(fs::symlink_status(options.output, error))) {
    return absl::AlreadyExistsError(absl::StrCat(
        options.output, ": exists already; remove it or choose another output folder"));
  }
  return absl::OkStatus();
}

// What must be equal on every rank.
std::string Describe(const PrepareOptions& o) {
  return absl::StrCat(absl::StrJoin(o.inputs, "\n"), "\n\n", absl::StrJoin(o.heldout_inputs, "\n"),
                      "\n\n", o.heldout_fraction, "\n", o.output, "\n", o.text_field, "\n",
                      o.tokenizer, "\n", o.vocabulary_size, "\n", o.tokenizer_training_bytes, "\n",
                      o.shard_tokens, "\n", o.seed);
}

// Everything of one run of Prepare. Each phase is done by every rank and ends with a meeting.
class Preparation {
 public:
  Preparation(const PrepareOptions& options, PrepareRanks& ranks, std::string folder,
              int num_threads)
      : options_(options),
        ranks_(ranks),
        folder_(std::move(folder)),
        parts_(folder_ + "/parts"),
        num_threads_(num_threads),
        choice_(options.seed, options.heldout_inputs.empty() ? options.heldout_fraction : 0.0) {}

  absl::StatusOr<PrepareResult> Run() {
    PLAIT_RETURN_IF_ERROR(ranks_.Meet(MakeFolders()));
    PLAIT_RETURN_IF_ERROR(ranks_.Meet(Open()));
    PLAIT_RETURN_IF_ERROR(DealCorpus(ranks_, *corpus_));
    if (heldout_corpus_) PLAIT_RETURN_IF_ERROR(DealCorpus(ranks_, *heldout_corpus_));
    ranks_.Begin("scan", InputBytes());
    PLAIT_RETURN_IF_ERROR(ranks_.Meet(Scan()));
    PLAIT_RETURN_IF_ERROR(AddUpScans());
    PLAIT_RETURN_IF_ERROR(ranks_.Meet(choice_.Decide()));
    PLAIT_RETURN_IF_ERROR(MakeTokenizer());
    ranks_.Begin("tokenise", InputBytes());
    PLAIT_RETURN_IF_ERROR(ranks_.Meet(Tokenise()));
    PLAIT_RETURN_IF_ERROR(WriteShards());
    PLAIT_RETURN_IF_ERROR(
        ranks_.Meet(OnFirstRank([this] { return WriteVocabularyAndManifest(); })));
    PrepareResult result;
    result.train = Total(train_);
    result.heldout = Total(heldout_);
    result.vocabulary_size = tokenizer_->vocabulary_size();
    result.tokenizer_was_trained = options_.tokenizer.empty();
    lock_.Remove();
    return result;
  }

  // Whether this rank made the folder, and is to remove it after a failure.
  bool has_folder() const { return has_folder_; }

 private:
  template <class Work>
  absl::Status OnFirstRank(const Work& work) const {
    return ranks_.rank() == 0 ? work() : absl::OkStatus();
  }

  absl::Status MakeFolders() {
    return OnFirstRank([this]() -> absl::Status {
      PLAIT_ASSIGN_OR_RETURN(lock_, FolderLock::TakeEmpty(folder_));
      has_folder_ = true;
      std::error_code error;
      fs::create_directories(parts_, error);
      if (error) return SystemError(folder_, "cannot be created", error.value());
      return absl::OkStatus();
    });
  }

  absl::Status Open() {
    std::error_code error;
    if (!fs::is_directory(parts_, error)) {
      return absl::FailedPreconditionError(absl::StrCat(
          parts_, ": not seen here; the output must lie on a file system that all ranks share"));
    }
    if (!options_.tokenizer.empty()) {
      PLAIT_ASSIGN_OR_RETURN(tokenizer_, Tokenizer::Load(options_.tokenizer));
      PLAIT_RETURN_IF_ERROR(tokenizer_->CheckDocumentTokens());
    }
    PLAIT_ASSIGN_OR_RETURN(corpus_, CorpusReader::Open(options_.inputs, options_.text_field));
    if (options_.heldout_inputs.empty()) return absl::OkStatus();
    PLAIT_ASSIGN_OR_RETURN(heldout_corpus_,
                           CorpusReader::Open(options_.heldout_inputs, options_.text_field));
    return absl::OkStatus();
  }

  absl::Status Sum(Tensor& values) const {
    return AllReduceOnHost(ranks_.world(), values.vector(), ReduceOperation::kSum);
  }

  int64_t InputBytes() const {
    return corpus_->total_bytes() + (heldout_corpus_ ? heldout_corpus_->total_bytes() : 0);
  }

  void Report() const {
    ranks_.Report(corpus_->bytes_read() + (heldout_corpus_ ? heldout_corpus_->bytes_read() : 0),
                  tokens_);
  }

  // Reads every document once, so that a bad one is found before the long work.
  absl::Status Scan() {
    PLAIT_RETURN_IF_ERROR(ScanCorpus(*corpus_, [this](const Document& document) {
      choice_.Observe(document.name);
      text_bytes_ += static_cast<int64_t>(document.text.size());
    }));
    if (!heldout_corpus_) return absl::OkStatus();
    return ScanCorpus(*heldout_corpus_, [](const Document&) {});
  }

  absl::Status ScanCorpus(CorpusReader& corpus, const std::function<void(const Document&)>& visit) {
    while (true) {
      PLAIT_ASSIGN_OR_RETURN(const std::optional<Document> document, corpus.Next());
      Report();
      if (!document.has_value()) return absl::OkStatus();
      visit(*document);
    }
  }

  // What all ranks saw together.
  absl::Status AddUpScans() {
    HeldoutChoice::Observed observed = choice_.observed();
    Tensor counts = Tensor::FromValues<int64_t>(
        {3}, {text_bytes_, observed.documents, observed.below_fraction});
    PLAIT_RETURN_IF_ERROR(Sum(counts));
    text_bytes_ = counts.data<int64_t>()[0];
    observed.documents = counts.data<int64_t>()[1];
    observed.below_fraction = counts.data<int64_t>()[2];
    Tensor largest = Tensor::FromValues<double>({1}, {-observed.smallest_hash});
    PLAIT_RETURN_IF_ERROR(AllReduceOnHost(ranks_.world(), largest.vector(), ReduceOperation::kMax));
    observed.smallest_hash = -largest.data<double>()[0];
    choice_.SetObserved(observed);
    return absl::OkStatus();
  }

  // The tokenizer on every rank, and its file in the output.
  absl::Status MakeTokenizer() {
    if (tokenizer_) {
      PLAIT_RETURN_IF_ERROR(CheckSameText(ranks_.world(), "the tokenizer", tokenizer_->digest()));
      return ranks_.Meet(OnFirstRank([this] { return WriteGivenTokenizer(); }));
    }
    const std::string path = folder_ + "/" + kSentencePieceName;
    ranks_.Begin("train tokenizer", corpus_->total_bytes());
    PLAIT_RETURN_IF_ERROR(ranks_.Meet(Sample()));
    PLAIT_RETURN_IF_ERROR(ranks_.Meet(OnFirstRank([this, &path] { return Train(path); })));
    absl::StatusOr<Tokenizer> trained = Tokenizer::Load(path);
    if (trained.ok()) tokenizer_ = *std::move(trained);
    return ranks_.Meet(trained.status());
  }

  // Unchanged, and the file beside it that says which tokens begin and end a document.
  absl::Status WriteGivenTokenizer() const {
    PLAIT_RETURN_IF_ERROR(WriteFileDurably(absl::StrCat(folder_, "/", tokenizer_->file_name()),
                                           tokenizer_->model_bytes()));
    if (tokenizer_->config().empty()) return absl::OkStatus();
    return WriteFileDurably(absl::StrCat(folder_, "/", kTokenizerConfigName), tokenizer_->config());
  }

  absl::Status Sample() {
    const double fraction = static_cast<double>(options_.tokenizer_training_bytes) /
                            static_cast<double>(std::max<int64_t>(text_bytes_, 1));
    corpus_->Restart();
    return WriteTokenizerSample(*corpus_, choice_, {.seed = options_.seed, .fraction = fraction},
                                SamplePath(ranks_.rank()), [this] {
                                  ranks_.Report(corpus_->bytes_read(), 0);
                                  return !ranks_.OthersFailed();
                                });
  }

  std::string SamplePath(int rank) const { return absl::StrFormat("%s/sample-%05d", parts_, rank); }

  absl::Status Train(const std::string& path) const {
    TokenizerSampleReader sample(ranks_.size(), [this](int rank) { return SamplePath(rank); });
    const absl::StatusOr<std::string> model =
        TrainTokenizer({.vocabulary_size = options_.vocabulary_size},
                       [&sample](std::string* text) { return sample.Next(text); });
    PLAIT_RETURN_IF_ERROR(sample.status());
    PLAIT_RETURN_IF_ERROR(model.status());
    return WriteFileDurably(path, *model);
  }

  absl::Status Tokenise() {
    PLAIT_ASSIGN_OR_RETURN(TokenPartWriter train,
                           TokenPartWriter::Create(parts_, kTrain, ranks_.rank()));
    PLAIT_ASSIGN_OR_RETURN(TokenPartWriter heldout,
                           TokenPartWriter::Create(parts_, kHeldout, ranks_.rank()));
    corpus_->Restart();
    if (heldout_corpus_) heldout_corpus_->Restart();
    const auto go_on = [this](int64_t tokens) {
      tokens_ += tokens;
      Report();
      return !ranks_.OthersFailed();
    };
    PLAIT_RETURN_IF_ERROR(TokeniseCorpus(
        *corpus_, *tokenizer_, num_threads_,
        [this, &train, &heldout](const std::string& name) {
          return choice_.IsHeldOut(name) ? &heldout : &train;
        },
        go_on));
    if (heldout_corpus_) {
      PLAIT_RETURN_IF_ERROR(TokeniseCorpus(
          *heldout_corpus_, *tokenizer_, num_threads_,
          [&heldout](const std::string&) { return &heldout; }, go_on));
    }
    PLAIT_RETURN_IF_ERROR(train.Close());
    return heldout.Close();
  }

  // Every rank makes the plan, and writes its share of the shards of both splits.
  absl::Status WriteShards() {
    std::vector<PlannedShard> plan;
    PLAIT_RETURN_IF_ERROR(ranks_.Meet(Plan(&plan)));
    const int64_t count = static_cast<int64_t>(plan.size());
    int64_t tokens = 0;
    for (const PlannedShard& shard : plan) tokens += shard.tokens;
    ranks_.Begin("write shards", tokens * kTokenBytes);
    // Of each shard: its file's length and digest, from the rank that wrote it.
    Tensor files = Tensor::OnHost(DType::kI64, {count, kFileWords});
    PLAIT_RETURN_IF_ERROR(ranks_.Meet(WriteOwnShards(plan, files)));
    PLAIT_RETURN_IF_ERROR(Sum(files));
    for (int64_t s = 0; s < count; ++s) {
      const PlannedShard& planned = plan[static_cast<size_t>(s)];
      const int64_t* words = files.data<int64_t>() + s * kFileWords;
      const std::string digest(reinterpret_cast<const char*>(words + 1), kDigestCharacters);
      (planned.prefix == kTrain ? train_ : heldout_)
          .push_back({{planned.name, words[0], digest},
                      planned.documents,
                      planned.tokens,
                      planned.text_bytes});
    }
    return absl::OkStatus();
  }

  absl::Status Plan(std::vector<PlannedShard>* plan) const {
    for (const char* split : {kTrain, kHeldout}) {
      PLAIT_ASSIGN_OR_RETURN(std::vector<PlannedShard> shards,
                             PlanShards(parts_, split, ranks_.size(), options_.shard_tokens));
      plan->insert(plan->end(), shards.begin(), shards.end());
    }
    return absl::OkStatus();
  }

  absl::Status WriteOwnShards(const std::vector<PlannedShard>& plan, Tensor& files) const {
    const int64_t count = static_cast<int64_t>(plan.size());
    const int64_t end = PartBegin(count, ranks_.rank() + 1, ranks_.size());
    int64_t tokens = 0;
    for (int64_t s = PartBegin(count, ranks_.rank(), ranks_.size()); s < end; ++s) {
      if (ranks_.OthersFailed()) break;
      const PlannedShard& planned = plan[static_cast<size_t>(s)];
      PLAIT_ASSIGN_OR_RETURN(const ManifestShard shard,
                             BuildShard(parts_, planned, folder_, tokenizer_->digest(),
                                        tokenizer_->vocabulary_size()));
      PLAIT_CHECK_EQ(shard.file.digest.size(), kDigestCharacters);
      int64_t* words = files.data<int64_t>() + s * kFileWords;
      words[0] = shard.file.bytes;
      std::memcpy(words + 1, shard.file.digest.data(), kDigestCharacters);
      tokens += planned.tokens;
      ranks_.Report(tokens * kTokenBytes, 0);
    }
    return absl::OkStatus();
  }

  absl::Status WriteVocabularyAndManifest() {
    const std::string path = folder_ + "/" + kVocabularyName;
    PLAIT_ASSIGN_OR_RETURN(Hdf5File file, Hdf5File::Create(path));
    PLAIT_RETURN_IF_ERROR(file.Write<int32_t>("byte_length", tokenizer_->ByteLengths(),
                                              Hdf5Layout::kChunkedWithChecksum));
    PLAIT_RETURN_IF_ERROR(file.SetAttribute("/", "tokenizer_digest", tokenizer_->digest()));
    PLAIT_RETURN_IF_ERROR(file.Close());
    PLAIT_RETURN_IF_ERROR(SyncFile(path));
    PreparedManifest manifest;
    PLAIT_ASSIGN_OR_RETURN(manifest.tokenizer, DescribeFile(folder_, tokenizer_->file_name()));
    PLAIT_ASSIGN_OR_RETURN(manifest.vocabulary, DescribeFile(folder_, kVocabularyName));
    manifest.vocabulary_size = tokenizer_->vocabulary_size();
    manifest.bos_id = tokenizer_->bos_id();
    manifest.eos_id = tokenizer_->eos_id();
    manifest.has_dummy_prefix = tokenizer_->has_dummy_prefix();
    manifest.train = train_;
    manifest.heldout = heldout_;
    PLAIT_RETURN_IF_ERROR(WriteManifest(folder_, manifest));
    std::error_code error;
    fs::remove_all(parts_, error);
    if (error) return SystemError(parts_, "cannot be removed", error.value());
    return SyncFolder(folder_);
  }

  static PreparedSplit Total(const std::vector<ManifestShard>& shards) {
    PreparedSplit total;
    for (const ManifestShard& shard : shards) {
      total.documents += shard.documents;
      total.tokens += shard.tokens;
      total.text_bytes += shard.text_bytes;
      ++total.shards;
    }
    return total;
  }

  static constexpr int64_t kTokenBytes = 4;
  static constexpr size_t kDigestCharacters = 32;
  static constexpr int64_t kFileWords = 1 + kDigestCharacters / 8;

  const PrepareOptions& options_;
  PrepareRanks& ranks_;
  const std::string folder_;
  const std::string parts_;  // temporary files
  const int num_threads_;
  HeldoutChoice choice_;
  std::optional<CorpusReader> corpus_;
  std::optional<CorpusReader> heldout_corpus_;
  std::optional<Tokenizer> tokenizer_;
  int64_t text_bytes_ = 0;  // of all ranks once scanned
  int64_t tokens_ = 0;      // that this rank made
  std::vector<ManifestShard> train_;
  std::vector<ManifestShard> heldout_;
  FolderLock lock_;
  bool has_folder_ = false;
};

}  // namespace

absl::StatusOr<PrepareResult> Prepare(const PrepareOptions& options,
                                      const std::function<void(const PrepareProgress&)>& progress) {
  std::shared_ptr<Communicator> world = options.world;
  if (world == nullptr) world = MakeSingleRankCommunicator();
  PLAIT_ASSIGN_OR_RETURN(const std::unique_ptr<PrepareRanks> ranks,
                         PrepareRanks::Create(world, progress));
  PLAIT_RETURN_IF_ERROR(CheckSameText(*world, "the options", Describe(options)));
  PLAIT_RETURN_IF_ERROR(ranks->Meet(CheckOptions(options)));
  PLAIT_ASSIGN_OR_RETURN(const HostShare host, ShareOfHost(*world));
  fs::path output(options.output);
  if (!output.has_filename()) output = output.parent_path();
  const std::string partial = output.string() + ".partial";
  const int num_threads = options.num_threads > 0 ? options.num_threads : host.fair_threads;
  Preparation preparation(options, *ranks, partial, num_threads);
  absl::StatusOr<PrepareResult> result = preparation.Run();
  if (result.ok()) {
    const absl::Status renamed = ranks->Meet(
        world->rank() == 0 ? RenameDurably(partial, output.string()) : absl::OkStatus());
    if (!renamed.ok()) result = renamed;
  }
  std::error_code error;
  // Every rank has left the folder where all hold the same failure.
  if (!result.ok() && preparation.has_folder()) fs::remove_all(partial, error);
  return result;
}

}  // namespace plait
