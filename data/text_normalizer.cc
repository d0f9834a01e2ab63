#include "data/text_normalizer.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "data/component_fields.h"
#include "data/unicode_classes.h"
#include "data/unicode_form.h"
#include "data/utf8.h"

namespace plait {
namespace {

constexpr std::string_view kSpaceSymbol = "\xe2\x96\x81";  // U+2581

void ReplaceAll(std::string* text, std::string_view pattern, std::string_view content,
                bool* keeps_start) {
  size_t match = text->find(pattern);
  if (match == std::string::npos) return;
  // What replaces several characters stands for the last of them.
  if (match == 0 &&
      (content.empty() || Utf8CutBefore(pattern, static_cast<int64_t>(pattern.size()) - 1) > 0))
    *keeps_start = false;
  std::string result;
  result.reserve(text->size() + text->size() / 2);
  size_t begin = 0;
  for (; match != std::string::npos; match = text->find(pattern, begin)) {
    result.append(*text, begin, match - begin);
    result += content;
    begin = match + pattern.size();
  }
  result.append(*text, begin, std::string::npos);
  *text = std::move(result);
}

void Strip(std::string* text, bool left, bool right, bool* keeps_start) {
  const UnicodeClasses& classes = UnicodeClasses::Get();
  std::string_view rest = *text;
  int length = 0;
  const auto is_space = [&](std::string_view at) {
    return (classes.Of(DecodeUtf8(at, &length)) & UnicodeClasses::kSpace) != 0;
  };
  while (left && !rest.empty() && is_space(rest)) {
    rest.remove_prefix(static_cast<size_t>(length));
    *keeps_start = false;
  }
  while (right && !rest.empty()) {
    const size_t last =
        static_cast<size_t>(Utf8CutBefore(rest, static_cast<int64_t>(rest.size()) - 1));
    if (!is_space(rest.substr(last))) break;
    rest = rest.substr(0, last);
  }
  *text = std::string(rest);
}

}  // namespace

absl::StatusOr<TextNormalizer> TextNormalizer::FromJson(const std::string& file,
                                                        JsonValue normalizer) {
  TextNormalizer result;
  if (!normalizer.is_null()) PLAIT_RETURN_IF_ERROR(result.AddSteps(file, "normalizer", normalizer));
  return result;
}

absl::Status TextNormalizer::AddSteps(const std::string& file, const std::string& place,
                                      JsonValue normalizer) {
  ComponentFields fields(file, place, normalizer);
  const std::string type = fields.String("type");
  PLAIT_RETURN_IF_ERROR(fields.status());
  if (type == "Sequence") {
    fields.ForEach("normalizers", [&](JsonValue item, const std::string& item_place) {
      return AddSteps(file, item_place, item);
    });
    return fields.Finish();
  }
  Step step;
  if (type == "Prepend") {
    step.kind = Kind::kPrepend;
    step.content = fields.String("prepend");
  } else if (type == "Replace") {
    step.kind = Kind::kReplace;
    PLAIT_ASSIGN_OR_RETURN(step.pattern, StringPattern(fields));
    step.content = fields.String("content");
  } else if (type == "NFC" || type == "NFD" || type == "NFKC" || type == "NFKD") {
    step.kind = Kind::kCanonical;
    step.compatible = type[2] == 'K';
    step.decompose = type.back() == 'D';
  } else if (type == "Lowercase") {
    step.kind = Kind::kLowercase;
  } else if (type == "Strip") {
    step.kind = Kind::kStrip;
    step.left = fields.Boolean("strip_left");
    step.right = fields.Boolean("strip_right");
  } else {
    return fields.Refusal("type",
                          absl::StrCat(type,
                                       " is not supported; supported: Sequence, Prepend, Replace, "
                                       "NFC, NFD, NFKC, NFKD, Lowercase, Strip"));
  }
  PLAIT_RETURN_IF_ERROR(fields.Finish());
  if (step.kind == Kind::kPrepend && step.content.size() > kMostPieceBytes)
    return fields.Refusal("prepend", absl::StrCat("longer than ", kMostPieceBytes, " bytes"));
  if (step.kind == Kind::kReplace)
    PLAIT_RETURN_IF_ERROR(LimitGrowth(fields, step.pattern, step.content, &growth_));
  if (steps_.size() == kMostSteps) return fields.Refusal("", "too many steps");
  steps_.push_back(std::move(step));
  return absl::OkStatus();
}

absl::Status TextNormalizer::Apply(std::string* text, bool* keeps_start) const {
  for (const Step& step : steps_) {
    switch (step.kind) {
      case Kind::kPrepend:
        if (!text->empty()) text->insert(0, step.content);
        break;
      case Kind::kReplace:
        ReplaceAll(text, step.pattern, step.content, keeps_start);
        break;
      case Kind::kCanonical: {
        PLAIT_ASSIGN_OR_RETURN(*text, NormalizationForm(*text, step.compatible, step.decompose));
        break;
      }
      case Kind::kLowercase:
        *text = LowercaseEach(*text);
        break;
      case Kind::kStrip:
        Strip(text, step.left, step.right, keeps_start);
        break;
    }
  }
  return absl::OkStatus();
}

bool TextNormalizer::prepends_space() const {
  for (const Step& step : steps_) {
    if (step.kind == Kind::kPrepend && (step.content == kSpaceSymbol || step.content == " "))
      return true;
  }
  return false;
}

}  // namespace plait
