#include "data/prepare.h"

#include <algorithm>
#include <filesystem>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/durable_file.h"
#include "base/execution.h"
#include "base/hdf5_file.h"
#include "base/random.h"
#include "base/status_macros.h"
#include "data/corpus_reader.h"
#include "data/heldout_choice.h"
#include "data/prepared_manifest.h"
#include "data/shard_builder.h"
#include "data/tokenizer.h"
#include "data/tokenizer_training.h"

namespace plait {
namespace {

namespace fs = std::filesystem;

constexpr size_t kSampleBlockBytes = 1 << 16;
constexpr size_t kBlockBytes = 32 << 20;  // of text tokenised at a time

using Progress = std::function<void(const PrepareProgress&)>;

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

// The training texts, or the blocks of lines that the keyed hash takes.
class TokenizerSample {
 public:
  TokenizerSample(CorpusReader& corpus, const HeldoutChoice& choice, uint64_t seed, double fraction,
                  const std::function<void()>& report)
      : corpus_(corpus), choice_(choice), seed_(seed), fraction_(fraction), report_(report) {}

  bool Next(std::string* text) {
    while (true) {
      if (at_ == document_.text.size() && !NextDocument()) return false;
      size_t end = document_.text.find('\n', at_ + kSampleBlockBytes);
      end = end == std::string::npos ? document_.text.size() : end + 1;
      const RandomKey key(seed_, RandomPurpose::kSampleOrder, "tokenizer/" + document_.name);
      const bool taken = fraction_ >= 1 || key.Uniform(block_++) < fraction_;
      if (taken) *text = document_.text.substr(at_, end - at_);
      at_ = end;
      if (taken) return true;
    }
  }

  const absl::Status& status() const { return status_; }

 private:
  bool NextDocument() {
    do {
      absl::StatusOr<std::optional<Document>> next = corpus_.Next();
      if (!next.ok()) status_ = next.status();
      if (!next.ok() || !next->has_value()) return false;
      document_ = **std::move(next);
      report_();
    } while (choice_.IsHeldOut(document_.name));
    at_ = 0;
    block_ = 0;
    return true;
  }

  CorpusReader& corpus_;
  const HeldoutChoice& choice_;
  uint64_t seed_;
  double fraction_;
  const std::function<void()>& report_;
  absl::Status status_;
  Document document_;
  size_t at_ = 0;
  uint64_t block_ = 0;
};

// Everything of one run of Prepare.
class Preparation {
 public:
  Preparation(const PrepareOptions& options, Progress progress, std::string folder)
      : options_(options),
        progress_(std::move(progress)),
        folder_(std::move(folder)),
        num_threads_(options.num_threads > 0 ? options.num_threads : NumAvailableCores()),
        choice_(options.seed, options.heldout_inputs.empty() ? options.heldout_fraction : 0.0) {}

  absl::StatusOr<PrepareResult> Run() {
    PLAIT_RETURN_IF_ERROR(Scan());
    PLAIT_RETURN_IF_ERROR(MakeTokenizer());
    ShardBuilder train(folder_, "train", tokenizer_->digest(), tokenizer_->vocabulary_size(),
                       options_.shard_tokens);
    ShardBuilder heldout(folder_, "heldout", tokenizer_->digest(), tokenizer_->vocabulary_size(),
                         options_.shard_tokens);
    PLAIT_RETURN_IF_ERROR(Tokenise(*corpus_, &train, &heldout));
    if (heldout_corpus_) PLAIT_RETURN_IF_ERROR(Tokenise(*heldout_corpus_, &heldout, &heldout));
    PLAIT_RETURN_IF_ERROR(train.Finish());
    PLAIT_RETURN_IF_ERROR(heldout.Finish());
    PLAIT_RETURN_IF_ERROR(WriteVocabularyAndManifest(train.shards(), heldout.shards()));
    PrepareResult result;
    result.train = Total(train.shards());
    result.heldout = Total(heldout.shards());
    result.vocabulary_size = tokenizer_->vocabulary_size();
    result.tokenizer_was_trained = options_.tokenizer.empty();
    return result;
  }

 private:
  void Report(std::string_view stage, const CorpusReader& corpus) const {
    if (progress_) progress_({stage, corpus.bytes_read(), corpus.total_bytes()});
  }

  // Reads every document once, so that a bad one is found before the long work.
  absl::Status Scan() {
    if (!options_.tokenizer.empty()) {
      PLAIT_ASSIGN_OR_RETURN(tokenizer_, Tokenizer::Load(options_.tokenizer));
    }
    PLAIT_ASSIGN_OR_RETURN(corpus_, CorpusReader::Open(options_.inputs, options_.text_field));
    PLAIT_RETURN_IF_ERROR(ScanCorpus(*corpus_, [this](const Document& document) {
      choice_.Observe(document.name);
      text_bytes_ += static_cast<int64_t>(document.text.size());
    }));
    PLAIT_RETURN_IF_ERROR(choice_.Decide());
    if (options_.heldout_inputs.empty()) return absl::OkStatus();
    PLAIT_ASSIGN_OR_RETURN(heldout_corpus_,
                           CorpusReader::Open(options_.heldout_inputs, options_.text_field));
    return ScanCorpus(*heldout_corpus_, [](const Document&) {});
  }

  absl::Status ScanCorpus(CorpusReader& corpus, const std::function<void(const Document&)>& visit) {
    while (true) {
      PLAIT_ASSIGN_OR_RETURN(const std::optional<Document> document, corpus.Next());
      Report("scan", corpus);
      if (!document.has_value()) break;
      visit(*document);
    }
    corpus.Restart();
    return absl::OkStatus();
  }

  absl::Status MakeTokenizer() {
    if (!tokenizer_) {
      const double fraction = static_cast<double>(options_.tokenizer_training_bytes) /
                              static_cast<double>(std::max<int64_t>(text_bytes_, 1));
      const std::function<void()> report = [this] { Report("train tokenizer", *corpus_); };
      TokenizerSample sample(*corpus_, choice_, options_.seed, fraction, report);
      absl::StatusOr<std::string> model =
          TrainTokenizer({.vocabulary_size = options_.vocabulary_size},
                         [&sample](std::string* text) { return sample.Next(text); });
      PLAIT_RETURN_IF_ERROR(sample.status());
      if (!model.ok()) return std::move(model).status();
      PLAIT_ASSIGN_OR_RETURN(tokenizer_, Tokenizer::FromBytes(*std::move(model), kTokenizerName));
      corpus_->Restart();
    }
    return WriteFileDurably(folder_ + "/" + kTokenizerName, tokenizer_->model_bytes());
  }

  // Blocks of documents, each tokenised by all threads and then added in order.
  absl::Status Tokenise(CorpusReader& corpus, ShardBuilder* train, ShardBuilder* heldout) {
    Report("tokenise", corpus);
    for (bool more = true; more;) {
      std::vector<Document> documents;
      for (size_t bytes = 0; bytes < kBlockBytes;) {
        PLAIT_ASSIGN_OR_RETURN(std::optional<Document> document, corpus.Next());
        more = document.has_value();
        if (!more) break;
        bytes += document->text.size();
        documents.push_back(*std::move(document));
      }
      std::vector<absl::StatusOr<std::vector<int32_t>>> encoded(documents.size());
      const int64_t count = static_cast<int64_t>(documents.size());
#pragma omp parallel num_threads(num_threads_)
      {
        WordCache cache;
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < count; ++i) {
          const size_t document = static_cast<size_t>(i);
          encoded[document] = tokenizer_->Encode(documents[document].text, &cache);
        }
      }
      for (size_t i = 0; i < documents.size(); ++i) {
        if (!encoded[i].ok()) return Annotate(encoded[i].status(), documents[i].name);
        ShardBuilder* builder = choice_.IsHeldOut(documents[i].name) ? heldout : train;
        PLAIT_RETURN_IF_ERROR(AddDocument(documents[i], *encoded[i], builder));
      }
      Report("tokenise", corpus);
    }
    return absl::OkStatus();
  }

  absl::Status AddDocument(const Document& document, const std::vector<int32_t>& ids,
                           ShardBuilder* builder) {
    int64_t bytes = 0;
    for (int32_t id : ids) bytes += static_cast<int64_t>(tokenizer_->BytesOf(id).size());
    if (tokenizer_->has_dummy_prefix() && !ids.empty()) bytes -= 1;
    if (tokenizer_->is_lossless() && bytes != static_cast<int64_t>(document.text.size())) {
      return absl::InternalError(absl::StrCat(document.name, ": its tokens stand for ", bytes,
                                              " bytes, it has ", document.text.size()));
    }
    return builder->Add(tokenizer_->bos_id(), ids, tokenizer_->eos_id(), bytes);
  }

  absl::Status WriteVocabularyAndManifest(const std::vector<ManifestShard>& train,
                                          const std::vector<ManifestShard>& heldout) {
    const std::string path = folder_ + "/" + kVocabularyName;
    PLAIT_ASSIGN_OR_RETURN(Hdf5File file, Hdf5File::Create(path));
    PLAIT_RETURN_IF_ERROR(file.Write<int32_t>("byte_length", tokenizer_->ByteLengths(),
                                              Hdf5Layout::kChunkedWithChecksum));
    PLAIT_RETURN_IF_ERROR(file.SetAttribute("/", "tokenizer_digest", tokenizer_->digest()));
    PLAIT_RETURN_IF_ERROR(file.Close());
    PLAIT_RETURN_IF_ERROR(SyncFile(path));
    PreparedManifest manifest;
    PLAIT_ASSIGN_OR_RETURN(manifest.tokenizer, DescribeFile(folder_, kTokenizerName));
    PLAIT_ASSIGN_OR_RETURN(manifest.vocabulary, DescribeFile(folder_, kVocabularyName));
    manifest.vocabulary_size = tokenizer_->vocabulary_size();
    manifest.bos_id = tokenizer_->bos_id();
    manifest.eos_id = tokenizer_->eos_id();
    manifest.has_dummy_prefix = tokenizer_->has_dummy_prefix();
    manifest.train = train;
    manifest.heldout = heldout;
    PLAIT_RETURN_IF_ERROR(WriteManifest(folder_, manifest));
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

  const PrepareOptions& options_;
  const Progress progress_;
  const std::string folder_;
  const int num_threads_;
  HeldoutChoice choice_;
  std::optional<CorpusReader> corpus_;
  std::optional<CorpusReader> heldout_corpus_;
  std::optional<Tokenizer> tokenizer_;
  int64_t text_bytes_ = 0;
};

}  // namespace

absl::StatusOr<PrepareResult> Prepare(const PrepareOptions& options, const Progress& progress) {
  PLAIT_RETURN_IF_ERROR(CheckOptions(options));
  fs::path output(options.output);
  if (!output.has_filename()) output = output.parent_path();
  const std::string partial = output.string() + ".partial";
  std::error_code error;
  fs::remove_all(partial, error);  // of a run that was killed
  fs::create_directories(partial, error);
  if (error) return SystemError(partial, "cannot be created", error.value());
  absl::StatusOr<PrepareResult> result = Preparation(options, progress, partial).Run();
  if (result.ok()) {
    absl::Status renamed = RenameDurably(partial, output.string());
    if (!renamed.ok()) result = renamed;
  }
  if (!result.ok()) fs::remove_all(partial, error);
  return result;
}

}  // namespace plait
