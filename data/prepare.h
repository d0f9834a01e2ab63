// Prepare: text to token shards, the whole of `plait prepare`.
//   1. scan: reads every document once, checks it, and decides which are held out
//   2. train: makes a tokenizer from the training documents, unless one is given
//   3. tokenise: document = BOS text EOS, in input order, into train-*.h5 and heldout-*.h5
//   4. manifest.json with lengths and digests; then the folder gets its name
// The output is written to `<output>.partial` and renamed when it is complete. Its bytes depend on
// the inputs' contents and names below the given paths and on the options, not on the number of
// threads or ranks.
//
// Over ranks: each takes a range of the corpus's bytes (corpus_reader.h) through all stages; rank 0
// trains the tokenizer with what all sampled; each shard is written by one rank. Ranks share the
// file system of the inputs and the output; `<output>.partial` holds for a while 4 bytes a token
// beside the shards.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "parallel/communicator.h"

namespace plait {

struct PrepareOptions {
  std::vector<std::string> inputs;  // files and folders, see corpus_reader.h
  // Held-out documents. Where none are given, documents of `inputs` are held out: those whose
  // name's keyed hash is below heldout_fraction, at least one.
  std::vector<std::string> heldout_inputs;
  double heldout_fraction = 0.01;   // [0, 1); 0 holds nothing out
  std::string output;               // a folder that does not exist yet
  std::string text_field = "text";  // of JSONL lines
  std::string tokenizer;            // a .model or tokenizer.json; empty: train one
  int64_t vocabulary_size = 32000;  // of a tokenizer trained here
  // Training takes all of the text, or blocks of lines chosen by a keyed hash that make about this
  // much.
  int64_t tokenizer_training_bytes = int64_t{16} << 20;
  int64_t shard_tokens = int64_t{1} << 27;  // a shard is closed by the document that reaches this
  uint64_t seed = 1;                        // of the two keyed hashes
  int num_threads = 0;                      // 0: this rank's share of the cores it may use
  std::shared_ptr<Communicator> world;      // the ranks that work together; absent: this one alone
};

struct PreparedSplit {
  int64_t documents = 0;
  int64_t tokens = 0;
  int64_t text_bytes = 0;
  int64_t shards = 0;
  // Of the text, BOS and EOS not counted as tokens.
  double bytes_per_token() const {
    const int64_t text_tokens = tokens - 2 * documents;
    return text_tokens > 0 ? static_cast<double>(text_bytes) / static_cast<double>(text_tokens) : 0;
  }
};

struct PrepareResult {
  PreparedSplit train;
  PreparedSplit heldout;
  int64_t vocabulary_size = 0;
  bool tokenizer_was_trained = false;
};

// stage is "scan", "train tokenizer" or "tokenise", where the bytes are those of the input (as it
// is stored) that all ranks have read in it, or "write shards", where they are those of the tokens.
struct PrepareProgress {
  std::string_view stage;
  int64_t bytes_done = 0;
  int64_t bytes_total = 0;
  int64_t tokens_done = 0;  // of stage "tokenise"
};

// Collective where options.world has several ranks, which get the same options; `progress` is
// called on rank 0. Errors, the same on every rank: InvalidArgument for options out of range and
// bad input (see CorpusReader), NotFound for input that is not there, DataLoss for compressed input
// that is damaged, AlreadyExists where `output` exists, ResourceExhausted where the disk is full,
// FailedPrecondition where ranks see different files or have different options. Whatever fails,
// nothing stays behind.
absl::StatusOr<PrepareResult> Prepare(
    const PrepareOptions& options,
    const std::function<void(const PrepareProgress&)>& progress = nullptr);

}  // namespace plait
