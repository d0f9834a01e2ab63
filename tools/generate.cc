// plait generate
#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdio>
#include <functional>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "base/exit_code.h"
#include "base/json_text.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "checkpoint/checkpoint_reader.h"
#include "data/tokenizer.h"
#include "model/decoding/decoding_session.h"
#include "model/decoding/sampler.h"
#include "recipes/hugging_face_config.h"
#include "recipes/recipe_defaults.h"
#include "recipes/recipe_loader.h"
#include "recipes/recipe_overrides.h"
#include "recipes/recipe_validation.h"
#include "tools/option_checks.h"
#include "tools/plait.h"
#include "trainer/model_runtime.h"

namespace plait {
namespace {

using recipe::v1::Recipe;

struct Options {
  std::string path;
  std::string prompt;
  int64_t max_tokens = 128;
  SamplerOptions sampler;
  bool greedy = false;
  std::vector<std::string> overrides;
  bool json = false;
};

// Keys and values are held for all of them.
constexpr int64_t kMostTokens = int64_t{1} << 20;

struct Continuation {
  int64_t prompt_tokens = 0;
  int64_t tokens = 0;
  bool ended = false;  // by an id that ends a text
  double seconds = 0;  // without the prompt
};

absl::StatusOr<CheckpointReader> OpenCheckpoint(const std::string& path) {
  std::vector<RejectedCheckpoint> rejected;
  absl::StatusOr<CheckpointReader> reader = OpenCheckpointOrRun(path, &rejected);
  for (const RejectedCheckpoint& bad : rejected)
    LogWarning(absl::StrCat("passed over: ", bad.reason));
  return reader;
}

absl::StatusOr<Recipe> RecipeOf(const CheckpointReader& reader,
                                const std::vector<std::string>& overrides) {
  PLAIT_ASSIGN_OR_RETURN(Recipe recipe,
                         ParseRecipe(reader.description().recipe_text, reader.folder()));
  recipe.clear_parallel();  // of the ranks that trained it; here is one
  for (const std::string& assignment : overrides)
    PLAIT_RETURN_IF_ERROR(ApplyOverride(assignment, recipe));
  recipe = Resolved(recipe);
  PLAIT_RETURN_IF_ERROR(ValidateRecipe(recipe, /*world_size=*/1, RecipeUse::kModelOnly));
  return recipe;
}

// Empty where the checkpoint has no such file.
absl::StatusOr<std::string> OptionalAttachment(const CheckpointReader& reader,
                                               const std::string& name) {
  absl::StatusOr<std::string> bytes = reader.Attachment(name);
  return absl::IsNotFound(bytes.status()) ? std::string() : bytes;
}

// The ids that end a text: the tokenizer's, and those of the model folder that the checkpoint was
// converted from.
absl::StatusOr<std::set<int64_t>> EndIds(const CheckpointReader& reader,
                                         const Tokenizer& tokenizer) {
  std::set<int64_t> ids;
  if (tokenizer.eos_id() >= 0) ids.insert(tokenizer.eos_id());
  PLAIT_ASSIGN_OR_RETURN(const std::string config, OptionalAttachment(reader, "config.json"));
  if (config.empty()) return ids;
  PLAIT_ASSIGN_OR_RETURN(const std::string generation,
                         OptionalAttachment(reader, "generation_config.json"));
  const auto of_source = TokenIdsFromHuggingFace(config, generation, reader.folder());
  if (!of_source.ok()) return WithExitCode(of_source.status(), ExitCode::kBadCheckpoint);
  ids.insert(of_source->eos.begin(), of_source->eos.end());
  return ids;
}

absl::StatusOr<Tokenizer> TokenizerOf(const CheckpointReader& reader) {
  std::map<std::string, std::string> files;
  for (const char* name : {kJsonTokenizerName, kSentencePieceName, kTokenizerConfigName}) {
    PLAIT_ASSIGN_OR_RETURN(std::string bytes, OptionalAttachment(reader, name));
    if (!bytes.empty()) files[name] = std::move(bytes);
  }
  absl::StatusOr<Tokenizer> tokenizer =
      Tokenizer::FromFiles(files, reader.folder(), reader.description().tokenizer_digest);
  if (!tokenizer.ok()) return WithExitCode(tokenizer.status(), ExitCode::kBadCheckpoint);
  return tokenizer;
}

// Calls `write` with each piece of text as it comes.
absl::StatusOr<Continuation> Continue(const Options& options, const std::vector<int32_t>& prompt,
                                      const Tokenizer& tokenizer, const std::set<int64_t>& end_ids,
                                      Execution& execution, ModelRuntime& runtime,
                                      const std::function<void(const std::string&)>& write) {
  Continuation continuation{.prompt_tokens = static_cast<int64_t>(prompt.size())};
  DecodingSession session(execution, *runtime.model, *runtime.sharder,
                          continuation.prompt_tokens + options.max_tokens);
  TokenStreamDecoder decoder(tokenizer);
  PLAIT_ASSIGN_OR_RETURN(Tensor logits, session.Append(prompt));
  const auto start = std::chrono::steady_clock::now();
  while (continuation.tokens < options.max_tokens) {
    // A model may have more rows than the tokenizer has ids: those are never drawn.
    PLAIT_ASSIGN_OR_RETURN(const int32_t token,
                           SampleToken(logits.Slice(0, tokenizer.vocabulary_size()),
                                       options.sampler, session.length()));
    ++continuation.tokens;
    continuation.ended = end_ids.count(token) > 0;
    if (continuation.ended) break;
    PLAIT_ASSIGN_OR_RETURN(const std::string text, decoder.Add(token));
    write(text);
    if (continuation.tokens == options.max_tokens) break;
    PLAIT_ASSIGN_OR_RETURN(logits, session.Append(std::span<const int32_t>(&token, 1)));
  }
  write(decoder.Finish());
  continuation.seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return continuation;
}

absl::Status Run(Options options) {
  if (options.greedy) options.sampler.temperature = 0;
  PLAIT_RETURN_IF_ERROR(ValidateSamplerOptions(options.sampler));
  PLAIT_ASSIGN_OR_RETURN(const CheckpointReader reader, OpenCheckpoint(options.path));
  PLAIT_ASSIGN_OR_RETURN(const Recipe recipe, RecipeOf(reader, options.overrides));
  PLAIT_ASSIGN_OR_RETURN(const Tokenizer tokenizer, TokenizerOf(reader));
  if (tokenizer.vocabulary_size() > recipe.model().vocabulary()) {
    return WithExitCode(absl::FailedPreconditionError(absl::StrCat(
                            reader.folder(), ": its tokenizer has ", tokenizer.vocabulary_size(),
                            " ids, its model ", recipe.model().vocabulary())),
                        ExitCode::kBadCheckpoint);
  }
  PLAIT_ASSIGN_OR_RETURN(const std::set<int64_t> end_ids, EndIds(reader, tokenizer));
  const absl::StatusOr<std::vector<int32_t>> prompt = tokenizer.EncodePrompt(options.prompt);
  if (!prompt.ok()) return Annotate(prompt.status(), "--prompt");
  if (prompt->empty()) {
    return absl::InvalidArgumentError(
        "--prompt: gives no token, and the tokenizer puts none before a text; give some text");
  }
  PLAIT_ASSIGN_OR_RETURN(const ExecutionOptions execution_options, ExecutionOptionsFor(recipe));
  Execution execution(execution_options);
  PLAIT_ASSIGN_OR_RETURN(ModelRuntime runtime, ModelRuntime::Create(execution, recipe));
  PLAIT_RETURN_IF_ERROR(LoadWeights(reader, recipe, runtime));

  std::string text;
  if (!options.json) std::fputs(options.prompt.c_str(), stdout);
  PLAIT_ASSIGN_OR_RETURN(const Continuation continuation,
                         Continue(options, *prompt, tokenizer, end_ids, execution, runtime,
                                  [&](const std::string& piece) {
                                    text += piece;
                                    if (options.json) return;
                                    std::fputs(piece.c_str(), stdout);
                                    std::fflush(stdout);
                                  }));
  if (!options.json) {
    std::fputc('\n', stdout);
    return absl::OkStatus();
  }
  const nlohmann::ordered_json answer = {
      {"checkpoint", reader.folder()},
      {"step", reader.description().step},
      {"prompt", options.prompt},
      {"text", text},
      {"prompt_tokens", continuation.prompt_tokens},
      {"tokens", continuation.tokens},
      {"ended", continuation.ended},
      {"tokens_per_second", static_cast<double>(continuation.tokens) / continuation.seconds}};
  std::printf("%s\n", JsonText(answer).c_str());
  return absl::OkStatus();
}

}  // namespace

void AddGenerateCommand(CLI::App& plait, Action& action) {
  auto options = std::make_shared<Options>();
  SamplerOptions& sampler = options->sampler;
  CLI::App* command = plait.add_subcommand("generate", "Continues a prompt");
  command
      ->add_option("path", options->path,
                   "A checkpoint, trained or converted, or the folder of a run")
      ->required();
  command->add_option("--prompt", options->prompt, "Text to continue")->required();
  command->add_option("--max-tokens", options->max_tokens, "Most tokens to add")
      ->check(CLI::Range(int64_t{1}, kMostTokens))
      ->capture_default_str();
  CLI::Option* temperature =
      command->add_option("--temperature", sampler.temperature, "0: always the likeliest token")
          ->capture_default_str();
  command->add_option("--top-k", sampler.top_k, "Draw among the k likeliest; 0: all")
      ->capture_default_str();
  command->add_option("--top-p", sampler.top_p, "Draw among the likeliest that sum to p")
      ->capture_default_str();
  command->add_option("--seed", sampler.seed, "The same seed gives the same text")
      ->check(SeedNumber())
      ->capture_default_str();
  command->add_flag("--greedy", options->greedy, "As --temperature 0")->excludes(temperature);
  command
      ->add_option("--set", options->overrides,
                   "Changes one field of the checkpoint's recipe: path=value; repeatable")
      ->expected(1)
      ->take_all();
  command->add_flag("--json", options->json, "Answers with one JSON object, without the prompt");
  command->footer(
      "Computes as the checkpoint's recipe says (trainer.precision): trained and BF16 weights in "
      "bf16, converted\nF32 and F16 ones in f32; --set trainer.precision=F32 is as precise as "
      "can be.\n"
      "Example: plait generate runs/demo/run --prompt \"The file is\" --temperature 0.7 --seed 1");
  command->callback([options, &action] { action = [options] { return Run(*options); }; });
}

}  // namespace plait
