#include "data/sentencepiece_scan.h"

#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace plait {
namespace {

struct Field {
  uint32_t number = 0;
  uint64_t value = 0;      // of a varint
  std::string_view bytes;  // of a length-delimited field
};

// Walks the fields of one message.
class FieldReader {
 public:
  explicit FieldReader(std::string_view message) : rest_(message) {}

  bool done() const { return rest_.empty(); }

  // Nothing where the bytes are not a field.
  std::optional<Field> Next() {
    const std::optional<uint64_t> tag = Varint();
    if (!tag) return std::nullopt;
    Field field;
    field.number = static_cast<uint32_t>(*tag >> 3);
    if (field.number == 0 || *tag >> 32 != 0) return std::nullopt;
    switch (*tag & 7) {
      case 0: {
        const std::optional<uint64_t> value = Varint();
        if (!value) return std::nullopt;
        field.value = *value;
        return field;
      }
      case 1:
        return Take(8) ? std::optional(field) : std::nullopt;
      case 2: {
        const std::optional<uint64_t> size = Varint();
        if (!size || *size > rest_.size()) return std::nullopt;
        field.bytes = rest_.substr(0, *size);
        rest_.remove_prefix(*size);
        return field;
      }
      case 5:
        return Take(4) ? std::optional(field) : std::nullopt;
      default:
        return std::nullopt;
    }
  }

 private:
  bool Take(size_t bytes) {
    if (rest_.size() < bytes) return false;
    rest_.remove_prefix(bytes);
    return true;
  }

  std::optional<uint64_t> Varint() {
    uint64_t value = 0;
    for (int shift = 0; shift < 64 && !rest_.empty(); shift += 7) {
      const uint8_t byte = static_cast<uint8_t>(rest_.front());
      rest_.remove_prefix(1);
      value |= static_cast<uint64_t>(byte & 0x7f) << shift;
      if ((byte & 0x80) == 0) return value;
    }
    return std::nullopt;
  }

  std::string_view rest_;
};

absl::Status Malformed() {
  return absl::InvalidArgumentError("not a SentencePiece model, or damaged");
}

absl::StatusOr<ScannedPiece> ScanPiece(std::string_view message, size_t index) {
  ScannedPiece piece;
  for (FieldReader reader(message); !reader.done();) {
    const std::optional<Field> field = reader.Next();
    if (!field) return Malformed();
    if (field->number == 1) {
      if (static_cast<int64_t>(field->bytes.size()) > kMaxPieceBytes) {
        return absl::InvalidArgumentError(
            absl::StrCat("piece ", index, " has ", field->bytes.size(), " bytes, more than the ",
                         kMaxPieceBytes, " allowed"));
      }
      piece.text = std::string(field->bytes);
    } else if (field->number == 3) {
      if (field->value < 1 || field->value > 6) return Malformed();
      piece.type = static_cast<PieceType>(field->value);
    }
  }
  return piece;
}

}  // namespace

absl::StatusOr<ScannedModel> ScanSentencePieceModel(std::string_view model_bytes) {
  if (static_cast<int64_t>(model_bytes.size()) > kMaxTokenizerBytes) {
    return absl::InvalidArgumentError(absl::StrCat(
        "has ", model_bytes.size(), " bytes, more than the ", kMaxTokenizerBytes, " allowed"));
  }
  ScannedModel model;
  for (FieldReader reader(model_bytes); !reader.done();) {
    const std::optional<Field> field = reader.Next();
    if (!field) return Malformed();
    if (field->number == 1) {
      if (static_cast<int64_t>(model.pieces.size()) == kMaxPieces) {
        return absl::InvalidArgumentError(
            absl::StrCat("has more than the ", kMaxPieces, " pieces allowed"));
      }
      PLAIT_ASSIGN_OR_RETURN(ScannedPiece piece, ScanPiece(field->bytes, model.pieces.size()));
      model.pieces.push_back(std::move(piece));
    } else if (field->number == 3) {
      for (FieldReader normalizer(field->bytes); !normalizer.done();) {
        const std::optional<Field> setting = normalizer.Next();
        if (!setting) return Malformed();
        if (setting->number == 2) model.has_character_map = !setting->bytes.empty();
        if (setting->number == 3) model.add_dummy_prefix = setting->value != 0;
        if (setting->number == 4) model.remove_extra_whitespaces = setting->value != 0;
        if (setting->number == 5) model.escape_whitespaces = setting->value != 0;
      }
    }
  }
  if (model.pieces.empty())
    return absl::InvalidArgumentError("not a SentencePiece model: no pieces");
  return model;
}

}  // namespace plait
