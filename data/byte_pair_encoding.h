// Byte-pair encoding as `model` of a tokenizer.json says it ("type": "BPE"): a word's characters
// become pieces, and of all neighbours that may merge, the pair of lowest rank (leftmost first)
// merges until none is left.
// Source: Sennrich, Haddow and Birch, "Neural Machine Translation of Rare Words with Subword
// Units", 2016; behaviour as in the `tokenizers` package.
//   A character without a piece gives the pieces of its UTF-8 bytes ("<0x0A>") with byte_fallback,
//   else unk_token (runs of it one with fuse_unk), else nothing.
//   ignore_merges: a word that is a piece is that piece, whatever the merges give.
// dropout, continuing_subword_prefix and end_of_word_suffix are refused.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "data/json_value.h"

namespace plait {

class BytePairEncoding {
 public:
  // Kept between words, so that none needs memory of its own. One per thread.
  struct Workspace {
    struct Symbol {
      int32_t id;  // -1: merged into its left neighbour
      int32_t previous, next;
    };
    struct Candidate {
      uint64_t order;  // rank, then position: the lowest merges first
      int32_t left, right, merged;
    };
    std::vector<Symbol> symbols;
    std::vector<Candidate> heap;
  };

  // InvalidArgument with the place in `file` for what is not supported or not consistent: an id
  // twice or beyond the number of pieces, a piece twice, a merge of unknown pieces.
  static absl::StatusOr<BytePairEncoding> FromJson(const std::string& file, JsonValue model);

  // Appends the ids of a word of valid UTF-8.
  void Encode(std::string_view word, Workspace& workspace, std::vector<int32_t>* ids) const;

  int32_t num_pieces() const { return static_cast<int32_t>(pieces_.size()); }
  const std::string& PieceOf(int32_t id) const { return pieces_[static_cast<size_t>(id)]; }
  // -1 where there is no such piece.
  int32_t IdOf(std::string_view piece) const;
  // Whether a text gives the ids of its parts when it is cut before every run of `symbol`: no merge
  // makes a piece with `symbol` after another character, and nothing else looks across.
  bool MayCutBefore(std::string_view symbol) const;

 private:
  struct Merge {
    int32_t rank, id;
  };

  BytePairEncoding() = default;
  absl::Status ReadVocabulary(const std::string& file, JsonValue vocabulary);
  absl::Status ReadMerges(const std::string& file, JsonValue merges);
  void AddSymbols(std::string_view word, std::vector<Workspace::Symbol>& symbols) const;
  void MergeSymbols(Workspace& workspace) const;

  std::vector<std::string> pieces_;  // [id]
  absl::flat_hash_map<std::string, int32_t> id_of_piece_;
  absl::flat_hash_map<char32_t, int32_t> id_of_character_;
  absl::flat_hash_map<uint64_t, Merge> merges_;  // by left id << 32 | right id
  std::vector<int32_t> id_of_byte_;              // [256]; -1: no piece
  int32_t unknown_id_ = -1;
  bool byte_fallback_ = false;
  bool fuse_unknown_ = false;
  bool ignore_merges_ = false;
};

}  // namespace plait
