#include "data/pre_tokenizer.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "data/component_fields.h"
#include "data/unicode_classes.h"
#include "data/utf8.h"

namespace plait {
namespace {

// A copy of a text that lives as long as the workspace's words.
std::string& Changed(PreTokenizer::Workspace& workspace) {
  if (workspace.num_changed == workspace.changed.size()) workspace.changed.emplace_back();
  std::string& text = workspace.changed[workspace.num_changed++];
  text.clear();
  return text;
}

}  // namespace

absl::StatusOr<PreTokenizer> PreTokenizer::FromJson(const std::string& file,
                                                    JsonValue pre_tokenizer) {
  PreTokenizer result;
  if (!pre_tokenizer.is_null())
    PLAIT_RETURN_IF_ERROR(result.AddSteps(file, "pre_tokenizer", pre_tokenizer));
  return result;
}

absl::Status PreTokenizer::AddSteps(const std::string& file, const std::string& place,
                                    JsonValue pre_tokenizer) {
  ComponentFields fields(file, place, pre_tokenizer);
  const std::string type = fields.String("type");
  PLAIT_RETURN_IF_ERROR(fields.status());
  if (type == "Sequence") {
    fields.ForEach("pretokenizers", [&](JsonValue item, const std::string& item_place) {
      return AddSteps(file, item_place, item);
    });
    return fields.Finish();
  }
  if (gives_bytes_) return fields.Refusal("", "a step after ByteLevel is not supported");
  if (steps_.size() >= kMostSteps) return fields.Refusal("", "too many steps");
  Step step;
  if (type == "Metaspace") {
    PLAIT_ASSIGN_OR_RETURN(step, MetaspaceStep(fields));
  } else if (type == "Split") {
    PLAIT_ASSIGN_OR_RETURN(step, SplitStep(fields));
  } else if (type == "Digits") {
    step.kind = Kind::kSplitAtNumbers;
    step.behavior =
        fields.Boolean("individual_digits") ? Behavior::kIsolated : Behavior::kContiguous;
  } else if (type == "ByteLevel") {
    fields.Ignore("trim_offsets");
    gives_bytes_ = true;
    if (fields.Boolean("add_prefix_space")) steps_.push_back({.kind = Kind::kPrefixSpace});
    if (fields.Boolean("use_regex", true)) steps_.push_back({.kind = Kind::kSplitAtWords});
    return fields.Finish();
  } else {
    return fields.Refusal("type", absl::StrCat(type,
                                               " is not supported; supported: Sequence, Metaspace, "
                                               "ByteLevel, Split, Digits"));
  }
  PLAIT_RETURN_IF_ERROR(fields.Finish());
  steps_.push_back(std::move(step));
  return absl::OkStatus();
}

absl::StatusOr<PreTokenizer::Step> PreTokenizer::MetaspaceStep(ComponentFields& fields) {
  Step step{.kind = Kind::kMetaspace};
  AppendUtf8(fields.Character("replacement"), &step.symbol);
  step.split = fields.Boolean("split", true);
  fields.Ignore("str_rep");
  const bool may_prepend = fields.Boolean("add_prefix_space", true);
  const std::string scheme = fields.StringOrNull("prepend_scheme");
  if (scheme == "never") {
    step.prepend = Prepend::kNever;
  } else if (scheme == "first") {
    step.prepend = Prepend::kFirst;
  } else if (scheme.empty() || scheme == "always") {
    step.prepend = Prepend::kAlways;
  } else {
    return fields.Refusal("prepend_scheme", absl::StrCat(scheme,
                                                         " is not supported; supported: "
                                                         "always, first, never"));
  }
  if (!may_prepend) {
    // Files older than prepend_scheme.
    if (scheme.empty()) step.prepend = Prepend::kNever;
    if (step.prepend != Prepend::kNever)
      fields.Fail("add_prefix_space", absl::StrCat("false contradicts prepend_scheme ", scheme));
  }
  return step;
}

absl::StatusOr<PreTokenizer::Step> PreTokenizer::SplitStep(ComponentFields& fields) {
  Step step{.kind = Kind::kSplitAtString};
  const std::string behavior = fields.String("behavior");
  step.invert = fields.Boolean("invert");
  const std::optional<JsonValue> pattern = fields.Value("pattern");
  std::string expression;
  if (pattern.has_value()) {
    ComponentFields kinds(fields.file(), fields.PlaceOf("pattern"), *pattern);
    expression = kinds.StringOrNull("Regex");
  }
  if (const auto words = WordPatternOf(expression)) {
    step.kind = Kind::kSplitAtWords;
    step.pattern = *words;
  } else {
    PLAIT_ASSIGN_OR_RETURN(step.symbol, StringPattern(fields));
  }
  constexpr std::pair<const char*, Behavior> kBehaviors[] = {
      {"Isolated", Behavior::kIsolated},
      {"Removed", Behavior::kRemoved},
      {"MergedWithPrevious", Behavior::kMergedWithPrevious},
      {"MergedWithNext", Behavior::kMergedWithNext},
      {"Contiguous", Behavior::kContiguous}};
  for (const auto& [name, value] : kBehaviors) {
    if (behavior != name) continue;
    step.behavior = value;
    return step;
  }
  return fields.Refusal("behavior", absl::StrCat(behavior, " is not supported"));
}

void PreTokenizer::Cut(std::string_view text, bool at_start, Workspace& workspace) const {
  workspace.num_changed = 0;
  workspace.words.clear();
  workspace.words.push_back({text, at_start});
  for (const Step& step : steps_) {
    workspace.cut.clear();
    for (const Word& word : workspace.words) {
      switch (step.kind) {
        case Kind::kMetaspace:
          ApplyMetaspace(step, word, workspace);
          break;
        case Kind::kPrefixSpace:
          if (word.text.front() == ' ') {
            workspace.cut.push_back(word);
          } else {
            std::string& prefixed = Changed(workspace);
            prefixed.push_back(' ');
            prefixed += word.text;
            workspace.cut.push_back({prefixed, word.at_start});
          }
          break;
        default:
          Split(step, word, &workspace.cut);
      }
    }
    workspace.words.swap(workspace.cut);
  }
}

void PreTokenizer::ApplyMetaspace(const Step& step, const Word& word, Workspace& workspace) {
  std::string& text = Changed(workspace);
  const auto begins_with_symbol = [&](std::string_view at) {
    return at.substr(0, step.symbol.size()) == step.symbol;
  };
  const bool may_prepend =
      step.prepend == Prepend::kAlways || (step.prepend == Prepend::kFirst && word.at_start);
  if (may_prepend && word.text.front() != ' ' && !begins_with_symbol(word.text))
    text += step.symbol;
  for (size_t begin = 0;;) {
    const size_t space = std::min(word.text.find(' ', begin), word.text.size());
    text += word.text.substr(begin, space - begin);
    if (space == word.text.size()) break;
    text += step.symbol;
    begin = space + 1;
  }
  std::string_view rest = text;
  bool at_start = word.at_start;
  while (step.split) {
    const size_t end = rest.find(step.symbol, begins_with_symbol(rest) ? step.symbol.size() : 0);
    if (end == std::string_view::npos) break;
    workspace.cut.push_back({rest.substr(0, end), std::exchange(at_start, false)});
    rest.remove_prefix(end);
  }
  workspace.cut.push_back({rest, at_start});
}

std::vector<PreTokenizer::Stretch> PreTokenizer::FindStretches(const Step& step,
                                                               std::string_view text) {
  std::vector<Stretch> stretches;
  size_t done = 0;
  const auto add = [&](size_t begin, size_t end) {
    if (done < begin) stretches.push_back({done, begin, step.invert});
    stretches.push_back({begin, end, !step.invert});
    done = end;
  };
  if (step.kind == Kind::kSplitAtString) {
    for (size_t at = text.find(step.symbol); at != std::string_view::npos;
         at = text.find(step.symbol, done)) {
      add(at, at + step.symbol.size());
    }
  } else if (step.kind == Kind::kSplitAtWords) {
    while (done < text.size()) add(done, done + MatchWord(step.pattern, text.substr(done)));
  } else {
    const UnicodeClasses& classes = UnicodeClasses::Get();
    int length = 0;
    for (size_t at = 0; at < text.size(); at += static_cast<size_t>(length)) {
      const uint8_t of = classes.Of(DecodeUtf8(text.substr(at), &length));
      if (of & UnicodeClasses::kNumeric) add(at, at + static_cast<size_t>(length));
    }
  }
  if (done < text.size()) stretches.push_back({done, text.size(), step.invert});
  return stretches;
}

void PreTokenizer::Split(const Step& step, const Word& word, std::vector<Word>* cut) {
  const auto give = [&](const Stretch& stretch) {
    cut->push_back({word.text.substr(stretch.begin, stretch.end - stretch.begin),
                    word.at_start && stretch.begin == 0});
  };
  if (step.kind == Kind::kSplitAtWords && step.behavior == Behavior::kIsolated) {
    for (size_t at = 0; at < word.text.size();) {
      const size_t length = MatchWord(step.pattern, word.text.substr(at));
      give({at, at + length});
      at += length;
    }
    return;
  }
  std::vector<Stretch> stretches = FindStretches(step, word.text);
  if (step.behavior == Behavior::kRemoved) {
    std::erase_if(stretches, [](const Stretch& stretch) { return stretch.is_match; });
  }
  const bool from_behind = step.behavior == Behavior::kMergedWithNext;
  if (from_behind) std::reverse(stretches.begin(), stretches.end());
  std::vector<Stretch> joined;
  bool last_is_match = false;
  for (const Stretch& stretch : stretches) {
    bool joins = false;
    if (step.behavior == Behavior::kContiguous) {
      joins = stretch.is_match == last_is_match;
    } else if (step.behavior == Behavior::kMergedWithPrevious || from_behind) {
      joins = stretch.is_match && !last_is_match;
    }
    last_is_match = stretch.is_match;
    if (!joins || joined.empty()) {
      joined.push_back(stretch);
    } else if (from_behind) {
      joined.back().begin = stretch.begin;
    } else {
      joined.back().end = stretch.end;
    }
  }
  if (from_behind) std::reverse(joined.begin(), joined.end());
  for (const Stretch& stretch : joined) give(stretch);
}

bool PreTokenizer::prepends_space() const {
  return std::any_of(steps_.begin(), steps_.end(), [](const Step& step) {
    return step.kind == Kind::kPrefixSpace || step.prepend != Prepend::kNever;
  });
}

bool PreTokenizer::needs_unchanged_text() const {
  return steps_.size() > 1 && std::any_of(steps_.begin() + 1, steps_.end(), [](const Step& step) {
           return step.prepend == Prepend::kFirst;
         });
}

bool PreTokenizer::keeps_text() const {
  return std::none_of(steps_.begin(), steps_.end(),
                      [](const Step& step) { return step.behavior == Behavior::kRemoved; });
}

}  // namespace plait
