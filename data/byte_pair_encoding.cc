#include "data/byte_pair_encoding.h"

#include <algorithm>
#include <functional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/status_macros.h"
#include "data/component_fields.h"
#include "data/utf8.h"

namespace plait {
namespace {

constexpr char kPlace[] = "model";
constexpr int64_t kMostPieces = 1 << 20;
constexpr int32_t kMostMerges = 1 << 21;

uint64_t PairOf(int32_t left, int32_t right) {
  return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
}

bool IsLater(const BytePairEncoding::Workspace::Candidate& a,
             const BytePairEncoding::Workspace::Candidate& b) {
  return a.order > b.order;
}

absl::Status Refusal(const std::string& file, const std::string& place, const std::string& what) {
  return absl::InvalidArgumentError(absl::StrCat(file, ": ", kPlace, ".", place, what));
}

// "a b" or ["a", "b"].
absl::StatusOr<std::pair<std::string_view, std::string_view>> PairOfMerge(JsonValue merge) {
  if (merge.kind() == JsonValue::Kind::kString) {
    const std::string_view text = merge.string();
    const size_t space = text.find(' ');
    if (space == std::string_view::npos || text.find(' ', space + 1) != std::string_view::npos)
      return absl::InvalidArgumentError("expected two pieces with one space between");
    return std::pair(text.substr(0, space), text.substr(space + 1));
  }
  if (merge.kind() != JsonValue::Kind::kArray)
    return absl::InvalidArgumentError("expected a string or two strings");
  std::vector<std::string_view> parts;
  PLAIT_RETURN_IF_ERROR(merge.ForEachItem([&parts](JsonValue part) {
    if (part.kind() != JsonValue::Kind::kString || parts.size() == 2)
      return absl::InvalidArgumentError("expected two strings");
    parts.push_back(part.string());
    return absl::OkStatus();
  }));
  if (parts.size() != 2) return absl::InvalidArgumentError("expected two strings");
  return std::pair(parts[0], parts[1]);
}

}  // namespace

absl::StatusOr<BytePairEncoding> BytePairEncoding::FromJson(const std::string& file,
                                                            JsonValue model) {
  ComponentFields fields(file, kPlace, model);
  // Old files have no type: only BPE has merges.
  const std::string type = fields.StringOrNull("type");
  if (fields.status().ok() && !type.empty() && type != "BPE") {
    return fields.Refusal("type", absl::StrCat(type, " is not supported; supported: BPE"));
  }
  if (fields.Value("dropout").has_value())
    fields.Fail("dropout", "not supported: encoding must not depend on chance");
  for (const char* affix : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    if (!fields.StringOrNull(affix).empty()) fields.Fail(affix, "not supported unless empty");
  }
  BytePairEncoding encoding;
  encoding.byte_fallback_ = fields.Boolean("byte_fallback", false);
  encoding.fuse_unknown_ = fields.Boolean("fuse_unk", false);
  encoding.ignore_merges_ = fields.Boolean("ignore_merges", false);
  const std::string unknown = fields.StringOrNull("unk_token");
  const std::optional<JsonValue> vocabulary = fields.Value("vocab");
  const std::optional<JsonValue> merges = fields.Value("merges");
  if (!vocabulary || vocabulary->kind() != JsonValue::Kind::kObject)
    fields.Fail("vocab", "expected an object");
  if (!merges || merges->kind() != JsonValue::Kind::kArray)
    fields.Fail("merges", "expected an array");
  PLAIT_RETURN_IF_ERROR(fields.Finish());
  PLAIT_RETURN_IF_ERROR(encoding.ReadVocabulary(file, *vocabulary));
  PLAIT_RETURN_IF_ERROR(encoding.ReadMerges(file, *merges));
  if (!unknown.empty()) {
    encoding.unknown_id_ = encoding.IdOf(unknown);
    if (encoding.unknown_id_ < 0)
      return fields.Refusal("unk_token", absl::StrCat("\"", unknown, "\" is not in the vocab"));
  }
  return encoding;
}

absl::Status BytePairEncoding::ReadVocabulary(const std::string& file, JsonValue vocabulary) {
  std::vector<std::pair<std::string_view, int64_t>> entries;
  PLAIT_RETURN_IF_ERROR(vocabulary.ForEachMember([&](std::string_view piece, JsonValue id) {
    if (id.kind() != JsonValue::Kind::kInteger)
      return Refusal(file, "vocab", absl::StrCat(": \"", std::string(piece), "\" has no number"));
    entries.emplace_back(piece, id.integer());
    return absl::OkStatus();
  }));
  const int64_t count = static_cast<int64_t>(entries.size());
  if (count == 0) return Refusal(file, "vocab", " is empty");
  if (count > kMostPieces)
    return Refusal(file, "vocab", absl::StrCat(" has ", count, " pieces, at most ", kMostPieces));
  pieces_.resize(entries.size());
  id_of_piece_.reserve(entries.size());
  std::vector<bool> seen(entries.size());
  for (const auto& [view, id] : entries) {
    const std::string piece(view);
    if (id < 0 || id >= count) {
      return Refusal(file, "vocab",
                     absl::StrCat(": \"", piece, "\" has id ", id, ", expected 0 to ", count - 1,
                                  " for ", count, " pieces"));
    }
    if (seen[static_cast<size_t>(id)])
      return Refusal(file, "vocab", absl::StrCat(": id ", id, " is there twice"));
    seen[static_cast<size_t>(id)] = true;
    if (!id_of_piece_.emplace(piece, static_cast<int32_t>(id)).second)
      return Refusal(file, "vocab", absl::StrCat(": \"", piece, "\" is there twice"));
    int length = 0;
    if (!piece.empty()) {
      const char32_t first = DecodeUtf8(piece, &length);
      if (static_cast<size_t>(length) == piece.size())
        id_of_character_[first] = static_cast<int32_t>(id);
    }
    pieces_[static_cast<size_t>(id)] = piece;
  }
  for (int byte = 0; byte < 256; ++byte)
    id_of_byte_.push_back(IdOf(absl::StrFormat("<0x%02X>", byte)));
  return absl::OkStatus();
}

absl::Status BytePairEncoding::ReadMerges(const std::string& file, JsonValue merges) {
  int32_t rank = 0;
  return merges.ForEachItem([&](JsonValue merge) {
    const std::string place = absl::StrCat("merges[", rank, "]: ");
    if (rank == kMostMerges) return Refusal(file, place, "too many merges");
    const auto pair = PairOfMerge(merge);
    if (!pair.ok()) return Refusal(file, place, std::string(pair.status().message()));
    const std::string merged = absl::StrCat(std::string(pair->first), std::string(pair->second));
    const int32_t left = IdOf(pair->first), right = IdOf(pair->second), id = IdOf(merged);
    for (const auto& [piece, piece_id] :
         {std::pair(std::string(pair->first), left), std::pair(std::string(pair->second), right),
          std::pair(merged, id)}) {
      if (piece_id < 0)
        return Refusal(file, place, absl::StrCat("\"", piece, "\" is not in the vocab"));
    }
    // Of two merges of the same pair, the later counts.
    merges_[PairOf(left, right)] = {rank++, id};
    return absl::OkStatus();
  });
}

int32_t BytePairEncoding::IdOf(std::string_view piece) const {
  const auto entry = id_of_piece_.find(absl::string_view(piece.data(), piece.size()));
  return entry == id_of_piece_.end() ? -1 : entry->second;
}

bool BytePairEncoding::MayCutBefore(std::string_view symbol) const {
  if (ignore_merges_) return false;
  // Runs of unknown characters become one across the cut.
  const bool all_bytes =
      byte_fallback_ && std::find(id_of_byte_.begin(), id_of_byte_.end(), -1) == id_of_byte_.end();
  if (unknown_id_ >= 0 && !all_bytes) return false;
  // Where it is dropped, the pieces around it meet.
  int length = 0;
  if (!all_bytes && !id_of_character_.contains(DecodeUtf8(symbol, &length))) return false;
  return std::none_of(merges_.begin(), merges_.end(), [&](const auto& merge) {
    std::string_view piece = PieceOf(merge.second.id);
    while (piece.substr(0, symbol.size()) == symbol) piece.remove_prefix(symbol.size());
    return piece.find(symbol) != std::string_view::npos;
  });
}

void BytePairEncoding::AddSymbols(std::string_view word,
                                  std::vector<Workspace::Symbol>& symbols) const {
  const auto add = [&symbols](int32_t id) {
    const int32_t position = static_cast<int32_t>(symbols.size());
    symbols.push_back({id, position - 1, position + 1});
  };
  // An unknown one waits until a known character follows, not until a byte does: so does the
  // package.
  bool unknown_waits = false;
  while (!word.empty()) {
    int length = 0;
    const auto known = id_of_character_.find(DecodeUtf8(word, &length));
    const std::string_view character = word.substr(0, static_cast<size_t>(length));
    word.remove_prefix(character.size());
    if (known != id_of_character_.end()) {
      if (std::exchange(unknown_waits, false)) add(unknown_id_);
      add(known->second);
      continue;
    }
    const auto byte_id = [this](char byte) { return id_of_byte_[static_cast<uint8_t>(byte)]; };
    if (byte_fallback_ && std::all_of(character.begin(), character.end(),
                                      [&](char byte) { return byte_id(byte) >= 0; })) {
      for (const char byte : character) add(byte_id(byte));
    } else if (unknown_id_ >= 0) {
      if (unknown_waits && !fuse_unknown_) add(unknown_id_);
      unknown_waits = true;
    }
  }
  if (unknown_waits) add(unknown_id_);
  if (!symbols.empty()) symbols.back().next = -1;
}

void BytePairEncoding::MergeSymbols(Workspace& workspace) const {
  std::vector<Workspace::Symbol>& symbols = workspace.symbols;
  std::vector<Workspace::Candidate>& heap = workspace.heap;
  // What the symbol at `position` and the one after it merge to, where they may.
  const auto consider = [&](int32_t position) {
    const Workspace::Symbol& left = symbols[static_cast<size_t>(position)];
    if (left.next < 0) return false;
    const int32_t right = symbols[static_cast<size_t>(left.next)].id;
    const auto merge = merges_.find(PairOf(left.id, right));
    if (merge == merges_.end()) return false;
    heap.push_back({PairOf(merge->second.rank, position), left.id, right, merge->second.id});
    return true;
  };
  for (size_t position = 0; position < symbols.size(); ++position)
    consider(static_cast<int32_t>(position));
  std::make_heap(heap.begin(), heap.end(), IsLater);
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), IsLater);
    const Workspace::Candidate best = heap.back();
    heap.pop_back();
    const int32_t position = static_cast<int32_t>(best.order & 0xffffffff);
    Workspace::Symbol& left = symbols[static_cast<size_t>(position)];
    if (left.id != best.left || left.next < 0) continue;  // merged meanwhile
    Workspace::Symbol& right = symbols[static_cast<size_t>(left.next)];
    if (right.id != best.right) continue;
    left.id = best.merged;
    right.id = -1;
    left.next = right.next;
    if (left.next >= 0) symbols[static_cast<size_t>(left.next)].previous = position;
    if (left.previous >= 0 && consider(left.previous))
      std::push_heap(heap.begin(), heap.end(), IsLater);
    if (consider(position)) std::push_heap(heap.begin(), heap.end(), IsLater);
  }
}

void BytePairEncoding::Encode(std::string_view word, Workspace& workspace,
                              std::vector<int32_t>* ids) const {
  if (ignore_merges_) {
    const int32_t id = IdOf(word);
    if (id >= 0) {
      ids->push_back(id);
      return;
    }
  }
  workspace.symbols.clear();
  workspace.heap.clear();
  AddSymbols(word, workspace.symbols);
  MergeSymbols(workspace);
  for (const Workspace::Symbol& symbol : workspace.symbols) {
    if (symbol.id >= 0) ids->push_back(symbol.id);
  }
}

}  // namespace plait
