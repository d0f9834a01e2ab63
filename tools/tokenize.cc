// plait tokenize
#include <CLI/CLI.hpp>
#include <iostream>
#include <limits>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/json_text.h"
#include "base/status_macros.h"
#include "data/tokenizer.h"
#include "tools/plait.h"

namespace plait {
namespace {

struct Options {
  std::string tokenizer;
  bool prompt = false;
  bool decode = false;
};

// The answer to one line.
absl::StatusOr<std::string> Answer(const Options& options, const Tokenizer& tokenizer,
                                   const std::string& line, WordCache& cache) {
  const nlohmann::json value = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
  if (options.decode) {
    std::vector<int32_t> ids;
    bool is_ids = value.is_array();
    for (size_t i = 0; is_ids && i < value.size(); ++i) {
      is_ids = value[i].is_number_integer();
      if (!is_ids) break;
      const bool fits = value[i].is_number_unsigned()
                            ? value[i].get<uint64_t>() <= std::numeric_limits<int32_t>::max()
                            : value[i].get<int64_t>() >= std::numeric_limits<int32_t>::min();
      if (!fits) {
        return absl::InvalidArgumentError(absl::StrCat("id ", JsonText(value[i]),
                                                       " is outside the vocabulary of ",
                                                       tokenizer.vocabulary_size()));
      }
      ids.push_back(value[i].get<int32_t>());
    }
    if (!is_ids) return absl::InvalidArgumentError("expected a JSON array of ids");
    PLAIT_ASSIGN_OR_RETURN(const std::string text, tokenizer.Decode(ids));
    return JsonText(nlohmann::json(text));
  }
  if (!value.is_string()) return absl::InvalidArgumentError("expected a JSON string");
  const std::string& text = value.get_ref<const std::string&>();
  PLAIT_ASSIGN_OR_RETURN(const std::vector<int32_t> ids, options.prompt
                                                             ? tokenizer.EncodePrompt(text)
                                                             : tokenizer.Encode(text, &cache));
  return JsonText(nlohmann::json(ids));
}

absl::Status Run(const Options& options) {
  PLAIT_ASSIGN_OR_RETURN(const Tokenizer tokenizer, Tokenizer::Load(options.tokenizer));
  WordCache cache;
  std::string line;
  for (int64_t number = 1; std::getline(std::cin, line); ++number) {
    const absl::StatusOr<std::string> answer = Answer(options, tokenizer, line, cache);
    if (!answer.ok()) return Annotate(answer.status(), absl::StrCat("line ", number));
    std::cout << *answer << '\n';
  }
  std::cout.flush();
  return absl::OkStatus();
}

}  // namespace

void AddTokenizeCommand(CLI::App& plait, Action& action) {
  auto options = std::make_shared<Options>();
  CLI::App* command = plait.add_subcommand(
      "tokenize", "Turns texts into ids: a JSON string a line in, a JSON array a line out");
  command
      ->add_option("--tokenizer", options->tokenizer,
                   "SentencePiece .model or Hugging Face tokenizer.json")
      ->required();
  CLI::Option* prompt = command->add_flag(
      "--prompt", options->prompt,
      "As plait generate does: begins with BOS, unless tokenizer_config.json says not; a "
      "tokenizer.json takes special names for tokens");
  command->add_flag("--decode", options->decode, "The other way: ids in, texts out")
      ->excludes(prompt);
  command->footer("Example: plait tokenize --tokenizer tokenizer.json < texts.jsonl > ids.jsonl");
  command->callback([options, &action] { action = [options] { return Run(*options); }; });
}

}  // namespace plait
