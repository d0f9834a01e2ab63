// The SentencePiece library behind standard types only: its header defines absl::string_view anew
// and so cannot meet Abseil's in one file. Errors are strings here; "" means success. See
// tokenizer.h for what the rest of plait uses.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace plait {

class SentencePieceModel {
 public:
  SentencePieceModel();
  ~SentencePieceModel();

  // Of the bytes of a .model file that was checked before: the library is not safe on hostile
  // input.
  std::string Load(std::string_view model_bytes);
  // Appends the ids of `text`. Thread-safe.
  std::string Encode(std::string_view text, std::vector<int32_t>* ids) const;

  int bos_id() const;
  int eos_id() const;
  int pad_id() const;
  int unk_id() const;

 private:
  struct Library;
  std::unique_ptr<Library> library_;
};

// Settings by the library's own names ("vocab_size"). `next` gives one sentence after the other and
// false at the end. Fills `model_bytes`.
std::string TrainSentencePieceModel(
    const std::vector<std::pair<std::string, std::string>>& settings,
    const std::function<bool(std::string*)>& next, std::string* model_bytes);

}  // namespace plait
