// plait bench tokenizer
#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cinttypes>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/durable_file.h"
#include "base/json_text.h"
#include "base/status_macros.h"
#include "data/tokenizer.h"
#include "tools/plait.h"

namespace plait {
namespace {

constexpr int64_t kMaxTextBytes = int64_t{1} << 30;

struct Options {
  std::string tokenizer;
  std::string text;
  int rounds = 3;
  bool json = false;
};

using Clock = std::chrono::steady_clock;

double SecondsSince(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

absl::Status Run(const Options& options) {
  PLAIT_ASSIGN_OR_RETURN(const Tokenizer tokenizer, Tokenizer::Load(options.tokenizer));
  PLAIT_ASSIGN_OR_RETURN(const std::string text, ReadWholeFile(options.text, kMaxTextBytes));
  std::vector<std::string_view> lines;
  for (std::string_view rest = text; !rest.empty();) {
    lines.push_back(rest.substr(0, rest.find('\n')));
    rest.remove_prefix(std::min(lines.back().size() + 1, rest.size()));
  }
  double encode_seconds = 0, decode_seconds = 0;
  int64_t tokens = 0;
  for (int round = 0; round < options.rounds; ++round) {
    WordCache cache;  // each round begins without words
    std::vector<std::vector<int32_t>> ids;
    ids.reserve(lines.size());
    const Clock::time_point start = Clock::now();
    for (const std::string_view line : lines) {
      PLAIT_ASSIGN_OR_RETURN(std::vector<int32_t> line_ids, tokenizer.Encode(line, &cache));
      ids.push_back(std::move(line_ids));
    }
    const double encoded = SecondsSince(start);
    tokens = 0;
    for (const std::vector<int32_t>& line_ids : ids) {
      PLAIT_RETURN_IF_ERROR(tokenizer.Decode(line_ids).status());
      tokens += static_cast<int64_t>(line_ids.size());
    }
    const double decoded = SecondsSince(start) - encoded;
    if (round == 0 || encoded < encode_seconds) encode_seconds = encoded;
    if (round == 0 || decoded < decode_seconds) decode_seconds = decoded;
  }
  const double bytes = static_cast<double>(text.size());
  if (options.json) {
    const nlohmann::ordered_json answer = {{"benchmark", "tokenizer"},
                                           {"bytes", text.size()},
                                           {"texts", lines.size()},
                                           {"tokens", tokens},
                                           {"encode_seconds", encode_seconds},
                                           {"decode_seconds", decode_seconds}};
    std::printf("%s\n", JsonText(answer).c_str());
    return absl::OkStatus();
  }
  std::printf("%" PRId64 " tokens; one thread, best of %d: encode %.1f MB/s, decode %.1f MB/s\n",
              tokens, options.rounds, bytes / encode_seconds / 1e6, bytes / decode_seconds / 1e6);
  return absl::OkStatus();
}

}  // namespace

void AddTokenizerBenchmark(CLI::App& bench, Action& action) {
  auto options = std::make_shared<Options>();
  CLI::App* command =
      bench.add_subcommand("tokenizer", "Encodes and decodes the lines of a text on one thread");
  command->add_option("tokenizer", options->tokenizer, "A .model or tokenizer.json")->required();
  command->add_option("text", options->text, "A file of UTF-8 text")->required();
  command->add_option("--rounds", options->rounds, "The best counts")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  command->add_flag("--json", options->json, "Answers with one JSON object");
  command->footer("Example: plait bench tokenizer tokenizer.json text.txt --json");
  command->callback([options, &action] { action = [options] { return Run(*options); }; });
}

}  // namespace plait
