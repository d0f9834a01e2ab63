#include "data/sentencepiece_model.h"

#include <sentencepiece_processor.h>
#include <sentencepiece_trainer.h>

#include <unordered_map>
#include <utility>

namespace plait {
namespace {

std::string ErrorOf(const sentencepiece::util::Status& status) {
  if (status.ok()) return "";
  const std::string message = status.error_message();
  return message.empty() ? "no reason given by SentencePiece" : message;
}

class CallbackIterator : public sentencepiece::SentenceIterator {
 public:
  explicit CallbackIterator(const std::function<bool(std::string*)>& next) : next_(next) { Next(); }

  bool done() const override { return done_; }
  void Next() override { done_ = !next_(&value_); }
  const std::string& value() const override { return value_; }
  sentencepiece::util::Status status() const override { return {}; }

 private:
  const std::function<bool(std::string*)>& next_;
  std::string value_;
  bool done_ = false;
};

}  // namespace

struct SentencePieceModel::Library {
  sentencepiece::SentencePieceProcessor processor;
};

SentencePieceModel::SentencePieceModel() : library_(std::make_unique<Library>()) {}
SentencePieceModel::~SentencePieceModel() = default;

std::string SentencePieceModel::Load(std::string_view model_bytes) {
  return ErrorOf(library_->processor.LoadFromSerializedProto(model_bytes));
}

std::string SentencePieceModel::Encode(std::string_view text, std::vector<int32_t>* ids) const {
  std::vector<int> encoded;
  const std::string error = ErrorOf(library_->processor.Encode(text, &encoded));
  ids->insert(ids->end(), encoded.begin(), encoded.end());
  return error;
}

int SentencePieceModel::bos_id() const { return library_->processor.bos_id(); }
int SentencePieceModel::eos_id() const { return library_->processor.eos_id(); }
int SentencePieceModel::pad_id() const { return library_->processor.pad_id(); }
int SentencePieceModel::unk_id() const { return library_->processor.unk_id(); }

std::string TrainSentencePieceModel(
    const std::vector<std::pair<std::string, std::string>>& settings,
    const std::function<bool(std::string*)>& next, std::string* model_bytes) {
  const std::unordered_map<std::string, std::string> map(settings.begin(), settings.end());
  CallbackIterator sentences(next);
  return ErrorOf(sentencepiece::SentencePieceTrainer::Train(map, &sentences, model_bytes));
}

}  // namespace plait
