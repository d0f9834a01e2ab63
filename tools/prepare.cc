// plait prepare
#include "data/prepare.h"

#include <CLI/CLI.hpp>
#include <cinttypes>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "base/json_text.h"
#include "base/status_macros.h"
#include "tools/option_checks.h"
#include "tools/plait.h"
#include "tools/progress.h"
#include "tools/ranks.h"

namespace plait {
namespace {

struct Options {
  PrepareOptions prepare;
  bool json = false;
};

nlohmann::ordered_json SplitJson(const PreparedSplit& split) {
  return {{"documents", split.documents},
          {"tokens", split.tokens},
          {"text_bytes", split.text_bytes},
          {"shards", split.shards},
          {"bytes_per_token", split.bytes_per_token()}};
}

void PrintSplit(const char* name, const PreparedSplit& split) {
  std::printf("%-9s %10" PRId64 " documents %12" PRId64 " tokens %12" PRId64
              " bytes of text, %.2f a token, in %" PRId64 " shards\n",
              name, split.documents, split.tokens, split.text_bytes, split.bytes_per_token(),
              split.shards);
}

absl::Status PrepareOnRank(const Options& options, const std::shared_ptr<Communicator>& world) {
  PrepareOptions prepare = options.prepare;
  prepare.world = world;
  absl::StatusOr<PrepareResult> result = absl::UnknownError("");
  {
    Progress bar;
    result = Prepare(prepare, [&bar](const PrepareProgress& progress) {
      bar.Update(progress.stage, {progress.bytes_done, progress.bytes_total, progress.tokens_done});
    });
  }
  PLAIT_RETURN_IF_ERROR(result.status());
  if (world->rank() != 0) return absl::OkStatus();
  if (options.json) {
    const nlohmann::ordered_json answer = {{"output", options.prepare.output},
                                           {"vocabulary", result->vocabulary_size},
                                           {"tokenizer_was_trained", result->tokenizer_was_trained},
                                           {"train", SplitJson(result->train)},
                                           {"heldout", SplitJson(result->heldout)}};
    std::printf("%s\n", JsonText(answer).c_str());
    return absl::OkStatus();
  }
  std::printf("%s: vocabulary %" PRId64 "%s\n", options.prepare.output.c_str(),
              result->vocabulary_size,
              result->tokenizer_was_trained ? ", tokenizer trained here" : "");
  PrintSplit("train", result->train);
  PrintSplit("held out", result->heldout);
  return absl::OkStatus();
}

absl::Status Run(const Options& options) {
  return RunOnRanks([&options](const std::shared_ptr<Communicator>& world) {
    return PrepareOnRank(options, world);
  });
}

}  // namespace

void AddPrepareCommand(CLI::App& plait, Action& action) {
  auto options = std::make_shared<Options>();
  PrepareOptions& prepare = options->prepare;
  CLI::App* command =
      plait.add_subcommand("prepare", "Turns text or JSONL into a tokenizer and token shards");
  command
      ->add_option("--input", prepare.inputs,
                   "Text or JSONL files, plain, gzip or zstd, or folders of them; repeatable")
      ->required();
  command->add_option("--output", prepare.output, "Folder to make; it must not exist")->required();
  command->add_option("--heldout", prepare.heldout_inputs,
                      "Held-out text; without it, a share of the input is held out");
  command
      ->add_option("--heldout-fraction", prepare.heldout_fraction,
                   "Share of the documents held out where --heldout is not given")
      ->capture_default_str();
  command->add_option("--text-field", prepare.text_field, "Field of a JSONL line that is the text")
      ->capture_default_str();
  CLI::Option* tokenizer = command->add_option(
      "--tokenizer", prepare.tokenizer,
      "SentencePiece .model or Hugging Face tokenizer.json to use; without it, one "
      "is trained");
  command->add_option("--vocabulary", prepare.vocabulary_size, "Pieces of a tokenizer trained here")
      ->excludes(tokenizer)
      ->capture_default_str();
  command
      ->add_option("--tokenizer-training-bytes", prepare.tokenizer_training_bytes,
                   "Text that training a tokenizer looks at")
      ->capture_default_str();
  command->add_option("--shard-tokens", prepare.shard_tokens, "Tokens after which a shard is full")
      ->capture_default_str();
  command->add_option("--seed", prepare.seed, "Of what is held out and what is sampled")
      ->check(SeedNumber())
      ->capture_default_str();
  command
      ->add_option("--threads", prepare.num_threads,
                   "Of each rank; 0: its share of the host's cores")
      ->check(ThreadCount())
      ->capture_default_str();
  command->add_flag("--json", options->json, "Answers with one JSON object");
  command->footer(
      "Example: plait prepare --input text/ --vocabulary 4096 --output data\n"
      "On several ranks, with the same output: tools/launch/mpirun.sh -n 4 plait prepare ...");
  command->callback([options, &action] { action = [options] { return Run(*options); }; });
}

}  // namespace plait
