#include "data/token_decoder.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "data/byte_level.h"
#include "data/component_fields.h"
#include "data/utf8.h"

namespace plait {
namespace {

constexpr std::string_view kReplacement = "\xef\xbf\xbd";  // U+FFFD

std::string Replaced(std::string_view text, std::string_view pattern, std::string_view content) {
  std::string result;
  size_t begin = 0;
  for (size_t match = text.find(pattern); match != std::string_view::npos;
       match = text.find(pattern, begin)) {
    result += text.substr(begin, match - begin);
    result += content;
    begin = match + pattern.size();
  }
  result += text.substr(begin);
  return result;
}

int HexDigit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

// The byte of "<0x0A>", or -1.
int ByteOfPiece(std::string_view piece) {
  if (piece.size() != 6 || piece.substr(0, 3) != "<0x" || piece[5] != '>') return -1;
  const int high = HexDigit(piece[3]), low = HexDigit(piece[4]);
  return high < 0 || low < 0 ? -1 : high * 16 + low;
}

// Runs of byte pieces become text; ill-formed ones U+FFFD for each byte.
StringList JoinBytes(const StringList& pieces) {
  StringList result;
  std::string bytes;
  const auto flush = [&] {
    if (bytes.empty()) return;
    if (FirstInvalidUtf8(bytes) < 0) {
      result.Add(bytes);
    } else {
      for (size_t i = 0; i < bytes.size(); ++i) result.Add(kReplacement);
    }
    bytes.clear();
  };
  for (size_t i = 0; i < pieces.size(); ++i) {
    const int byte = ByteOfPiece(pieces[i]);
    if (byte >= 0) {
      bytes.push_back(static_cast<char>(byte));
    } else {
      flush();
      result.Add(pieces[i]);
    }
  }
  flush();
  return result;
}

// A piece with a character that is no byte's stands for itself.
std::string BytesOfByteLevel(std::string_view piece) {
  std::string bytes;
  int length = 0;
  for (std::string_view rest = piece; !rest.empty();
       rest.remove_prefix(static_cast<size_t>(length))) {
    const int byte = ByteOfByteLevel(DecodeUtf8(rest, &length));
    if (byte < 0) return std::string(piece);
    bytes.push_back(static_cast<char>(byte));
  }
  return bytes;
}

// Each longest ill-formed beginning of a character becomes one U+FFFD.
std::string ValidUtf8(const std::string& bytes) {
  if (FirstInvalidUtf8(bytes) < 0) return bytes;
  std::string text;
  std::string_view rest = bytes;
  while (!rest.empty()) {
    int length = 0;
    const bool whole = ClassifyUtf8Prefix(rest, &length) == Utf8Prefix::kComplete;
    text += whole ? rest.substr(0, static_cast<size_t>(length)) : kReplacement;
    rest.remove_prefix(static_cast<size_t>(length));
  }
  return text;
}

std::string_view Stripped(std::string_view text, std::string_view character, int64_t start,
                          int64_t stop) {
  for (; start > 0 && text.substr(0, character.size()) == character; --start)
    text.remove_prefix(character.size());
  for (; stop > 0 && text.size() >= character.size() &&
         text.substr(text.size() - character.size()) == character;
       --stop) {
    text.remove_suffix(character.size());
  }
  return text;
}

}  // namespace

absl::StatusOr<TokenDecoder> TokenDecoder::FromJson(const std::string& file, JsonValue decoder) {
  TokenDecoder result;
  result.joins_with_spaces_ = decoder.is_null();
  if (!decoder.is_null()) PLAIT_RETURN_IF_ERROR(result.AddSteps(file, "decoder", decoder));
  return result;
}

absl::Status TokenDecoder::AddSteps(const std::string& file, const std::string& place,
                                    JsonValue decoder) {
  ComponentFields fields(file, place, decoder);
  const std::string type = fields.String("type");
  PLAIT_RETURN_IF_ERROR(fields.status());
  Step step;
  if (type == "Sequence") {
    fields.ForEach("decoders", [&](JsonValue item, const std::string& item_place) {
      return AddSteps(file, item_place, item);
    });
    return fields.Finish();
  } else if (type == "Replace") {
    step.kind = Kind::kReplace;
    PLAIT_ASSIGN_OR_RETURN(step.pattern, StringPattern(fields));
    step.content = fields.String("content");
  } else if (type == "ByteFallback") {
    step.kind = Kind::kByteFallback;
  } else if (type == "Fuse") {
    step.kind = Kind::kFuse;
  } else if (type == "Strip") {
    step.kind = Kind::kStrip;
    AppendUtf8(fields.Character("content"), &step.pattern);
    step.start = fields.Integer("start");
    step.stop = fields.Integer("stop");
  } else if (type == "ByteLevel") {
    step.kind = Kind::kByteLevel;
    for (const char* name : {"add_prefix_space", "trim_offsets", "use_regex"}) fields.Ignore(name);
  } else if (type == "Metaspace") {
    step.kind = Kind::kMetaspace;
    AppendUtf8(fields.Character("replacement"), &step.pattern);
    const bool may_prepend = fields.Boolean("add_prefix_space", true);
    step.drops_first = may_prepend && fields.StringOrNull("prepend_scheme") != "never";
    for (const char* name : {"split", "str_rep"}) fields.Ignore(name);
  } else {
    return fields.Refusal("type", absl::StrCat(type,
                                               " is not supported; supported: Sequence, Replace, "
                                               "ByteFallback, Fuse, Strip, ByteLevel, Metaspace"));
  }
  PLAIT_RETURN_IF_ERROR(fields.Finish());
  if (step.kind == Kind::kReplace)
    PLAIT_RETURN_IF_ERROR(LimitGrowth(fields, step.pattern, step.content, &growth_));
  if (steps_.size() == kMostSteps) return fields.Refusal("", "too many steps");
  steps_.push_back(std::move(step));
  return absl::OkStatus();
}

StringList TokenDecoder::Apply(const Step& step, const StringList& pieces) {
  if (step.kind == Kind::kByteFallback) return JoinBytes(pieces);
  StringList result;
  switch (step.kind) {
    case Kind::kFuse:
      result.Add(pieces.Joined());
      break;
    case Kind::kByteLevel: {
      std::string bytes;
      for (size_t i = 0; i < pieces.size(); ++i) bytes += BytesOfByteLevel(pieces[i]);
      result.Add(ValidUtf8(bytes));
      break;
    }
    case Kind::kMetaspace:
      for (size_t i = 0; i < pieces.size(); ++i) {
        const bool drop = i == 0 && step.drops_first;
        result.Add(Replaced(pieces[i], step.pattern, drop ? "" : " "));
      }
      break;
    case Kind::kReplace:
      for (size_t i = 0; i < pieces.size(); ++i)
        result.Add(Replaced(pieces[i], step.pattern, step.content));
      break;
    default:
      for (size_t i = 0; i < pieces.size(); ++i)
        result.Add(Stripped(pieces[i], step.pattern, step.start, step.stop));
  }
  return result;
}

std::string TokenDecoder::Decode(StringList pieces) const {
  if (joins_with_spaces_) {
    std::string text;
    for (size_t i = 0; i < pieces.size(); ++i) {
      if (i > 0) text += ' ';
      text += pieces[i];
    }
    return text;
  }
  for (const Step& step : steps_) pieces = Apply(step, pieces);
  return pieces.Joined();
}

std::string TokenDecoder::BytesOf(std::string_view piece) const {
  std::string bytes(piece);
  bool fused = false;
  for (const Step& step : steps_) {
    const int byte = ByteOfPiece(bytes);
    switch (step.kind) {
      case Kind::kReplace:
        bytes = Replaced(bytes, step.pattern, step.content);
        break;
      case Kind::kByteFallback:
        // What follows works on text: a byte stays what it is.
        if (byte >= 0) return std::string(1, static_cast<char>(byte));
        break;
      case Kind::kFuse:
        fused = true;
        break;
      case Kind::kStrip:
        if (!fused) bytes = std::string(Stripped(bytes, step.pattern, step.start, step.stop));
        break;
      case Kind::kByteLevel:
        bytes = BytesOfByteLevel(bytes);
        break;
      case Kind::kMetaspace:
        bytes = Replaced(bytes, step.pattern, " ");
        break;
    }
  }
  return bytes;
}

bool TokenDecoder::strips_first_space() const {
  bool fused = false;
  for (const Step& step : steps_) {
    fused |= step.kind == Kind::kFuse;
    if (step.kind == Kind::kStrip && fused && step.start > 0 && step.pattern == " ") return true;
    if (step.kind == Kind::kMetaspace && step.drops_first) return true;
  }
  return false;
}

}  // namespace plait
