#include "data/sentencepiece_tokenizer.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "data/sentencepiece_model.h"
#include "data/sentencepiece_scan.h"
#include "data/utf8.h"

namespace plait {
namespace {

constexpr std::string_view kSpaceSymbol = "\xe2\x96\x81";  // U+2581
// SentencePiece's text for an unknown piece. With byte pieces, Encode never gives it.
constexpr std::string_view kUnknownText = " \xe2\x81\x87 ";
// The library's working memory grows with the text: longer ones are cut after a newline.
constexpr size_t kSegmentBytes = 1 << 16;

std::string WithSpaces(std::string_view piece) {
  std::string text;
  while (!piece.empty()) {
    if (piece.substr(0, kSpaceSymbol.size()) == kSpaceSymbol) {
      text.push_back(' ');
      piece.remove_prefix(kSpaceSymbol.size());
    } else {
      text.push_back(piece.front());
      piece.remove_prefix(1);
    }
  }
  return text;
}

// Whether a space follows another character.
bool HasInnerSpace(std::string_view text) {
  const size_t word = text.find_first_not_of(' ');
  return word != std::string_view::npos && text.find(' ', word) != std::string_view::npos;
}

// The byte of "<0x0A>", or -1.
int ByteOfPiece(const std::string& text) {
  constexpr std::string_view kDigits = "0123456789ABCDEF";
  if (text.size() != 6 || text.compare(0, 3, "<0x") != 0 || text[5] != '>') return -1;
  const size_t high = kDigits.find(text[3]), low = kDigits.find(text[4]);
  if (high == std::string_view::npos || low == std::string_view::npos) return -1;
  return static_cast<int>(high * 16 + low);
}

// What a piece adds to the decoded text.
std::string BytesOfPiece(const ScannedPiece& piece, bool escape_whitespaces) {
  switch (piece.type) {
    case PieceType::kControl:
      return "";
    case PieceType::kUnknown:
      return std::string(kUnknownText);
    case PieceType::kByte:
      return std::string(1, static_cast<char>(ByteOfPiece(piece.text)));
    default:
      return escape_whitespaces ? WithSpaces(piece.text) : piece.text;
  }
}

}  // namespace

SentencePieceTokenizer::SentencePieceTokenizer(SentencePieceTokenizer&&) noexcept = default;
SentencePieceTokenizer& SentencePieceTokenizer::operator=(SentencePieceTokenizer&&) noexcept =
    default;
SentencePieceTokenizer::~SentencePieceTokenizer() = default;

absl::StatusOr<SentencePieceTokenizer> SentencePieceTokenizer::FromBytes(
    const std::string& model_bytes, const std::string& name) {
  absl::StatusOr<ScannedModel> scanned = ScanSentencePieceModel(model_bytes);
  if (!scanned.ok()) return Annotate(scanned.status(), name);
  const auto invalid = [&name](const std::string& what) {
    return absl::InvalidArgumentError(absl::StrCat(name, ": ", what));
  };

  SentencePieceTokenizer tokenizer;
  tokenizer.name_ = name;
  tokenizer.id_of_byte_.assign(256, -1);
  tokenizer.newline_ends_pieces_ = true;
  tokenizer.space_begins_pieces_ = true;
  for (size_t id = 0; id < scanned->pieces.size(); ++id) {
    const ScannedPiece& piece = scanned->pieces[id];
    if (piece.type == PieceType::kByte) {
      const int byte = ByteOfPiece(piece.text);
      if (byte < 0) return invalid(absl::StrCat("byte piece ", id, " is not of the form <0x0A>"));
      tokenizer.id_of_byte_[static_cast<size_t>(byte)] = static_cast<int32_t>(id);
    }
    tokenizer.id_bytes_.push_back(BytesOfPiece(piece, scanned->escape_whitespaces));
    if (piece.type != PieceType::kUnknown && HasInnerSpace(tokenizer.id_bytes_.back())) {
      tokenizer.space_begins_pieces_ = false;
    }
    const size_t newline = piece.text.find('\n');
    if (newline != std::string::npos && newline + 1 != piece.text.size())
      tokenizer.newline_ends_pieces_ = false;
  }
  if (std::count(tokenizer.id_of_byte_.begin(), tokenizer.id_of_byte_.end(), -1) > 0) {
    return invalid(
        "has no byte pieces, so it cannot encode every text; train it with byte fallback");
  }
  tokenizer.model_ = std::make_unique<SentencePieceModel>();
  if (const std::string error = tokenizer.model_->Load(model_bytes); !error.empty())
    return invalid(error);
  tokenizer.bos_id_ = tokenizer.model_->bos_id();
  tokenizer.eos_id_ = tokenizer.model_->eos_id();
  tokenizer.pad_id_ = tokenizer.model_->pad_id();
  tokenizer.unk_id_ = tokenizer.model_->unk_id();
  if (tokenizer.bos_id_ < 0 || tokenizer.eos_id_ < 0)
    return invalid("has no <s> or no </s>; documents need both");
  tokenizer.has_dummy_prefix_ = scanned->add_dummy_prefix;
  tokenizer.is_lossless_ = !scanned->add_dummy_prefix && !scanned->remove_extra_whitespaces &&
                           scanned->escape_whitespaces && !scanned->has_character_map;
  return tokenizer;
}

absl::Status SentencePieceTokenizer::EncodeSegment(std::string_view text,
                                                   std::vector<int32_t>* ids) const {
  const std::string error = model_->Encode(text, ids);
  if (!error.empty())
    return absl::InternalError(absl::StrCat(name_, ": cannot encode a text: ", error));
  return absl::OkStatus();
}

absl::Status SentencePieceTokenizer::EncodeWords(std::string_view text, WordCache& cache,
                                                 std::vector<int32_t>* ids) const {
  while (!text.empty()) {
    // A word: spaces, then all up to the next space.
    const size_t letters = std::min(text.find_first_not_of(' '), text.size());
    const std::string_view word = text.substr(0, std::min(text.find(' ', letters), text.size()));
    if (const std::span<const int32_t> known = cache.Find(word); known.data() != nullptr) {
      ids->insert(ids->end(), known.begin(), known.end());
    } else {
      const size_t begin = ids->size();
      PLAIT_RETURN_IF_ERROR(EncodeSegment(word, ids));
      cache.Add(word, std::span<const int32_t>(*ids).subspan(begin));
    }
    text.remove_prefix(word.size());
  }
  return absl::OkStatus();
}

absl::Status SentencePieceTokenizer::Encode(std::string_view text, WordCache* cache,
                                            std::vector<int32_t>* ids) const {
  if (const int64_t offset = FirstInvalidUtf8(text); offset >= 0) {
    return absl::InvalidArgumentError(absl::StrCat("invalid UTF-8 at byte ", offset));
  }
  if (!is_lossless_) return EncodeSegment(text, ids);
  while (!text.empty()) {
    size_t end = text.size();
    if (newline_ends_pieces_ && end > kSegmentBytes) {
      const size_t newline = text.find('\n', kSegmentBytes);
      if (newline != std::string_view::npos) end = newline + 1;
    }
    const size_t symbol = text.substr(0, end).find(kSpaceSymbol);
    if (symbol != std::string_view::npos) end = symbol;
    const std::string_view segment = text.substr(0, end);
    if (cache != nullptr && space_begins_pieces_) {
      PLAIT_RETURN_IF_ERROR(EncodeWords(segment, *cache, ids));
    } else if (!segment.empty()) {
      PLAIT_RETURN_IF_ERROR(EncodeSegment(segment, ids));
    }
    text.remove_prefix(end);
    if (symbol != std::string_view::npos) {
      for (char byte : kSpaceSymbol) ids->push_back(id_of_byte_[static_cast<uint8_t>(byte)]);
      text.remove_prefix(kSpaceSymbol.size());
    }
  }
  return absl::OkStatus();
}

}  // namespace plait
