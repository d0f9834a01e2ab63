// Reads the parts of a SentencePiece .model file (protobuf wire format) that plait needs, with
// limits, before the library sees the file: a piece of 200,000 bytes makes version 0.1.97 crash.
// Fields, from sentencepiece_model.proto: ModelProto {1: pieces {1: piece, 3: type}, 3:
// normalizer_spec {2: precompiled_charsmap, 3: add_dummy_prefix, 4: remove_extra_whitespaces, 5:
// escape_whitespaces}}.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace plait {

inline constexpr int64_t kMaxTokenizerBytes = 64 << 20;
inline constexpr int64_t kMaxPieceBytes = 1 << 10;
inline constexpr int64_t kMaxPieces = 1 << 20;

enum class PieceType {
  kNormal = 1,
  kUnknown = 2,
  kControl = 3,
  kUserDefined = 4,
  kUnused = 5,
  kByte = 6
};

struct ScannedPiece {
  std::string text;
  PieceType type = PieceType::kNormal;
};

struct ScannedModel {
  std::vector<ScannedPiece> pieces;
  // The proto's defaults.
  bool add_dummy_prefix = true;
  bool remove_extra_whitespaces = true;
  bool escape_whitespaces = true;
  bool has_character_map = false;  // text is normalised, not kept as it is
};

// InvalidArgument, saying what is wrong and where, for anything but a plausible model within the
// limits.
absl::StatusOr<ScannedModel> ScanSentencePieceModel(std::string_view model_bytes);

}  // namespace plait
