// Which documents of a corpus are held out, and which blocks of text train the tokenizer: keyed
// hashes of names, so that neither depends on the order or the number of documents.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"

namespace plait {

class HeldoutChoice {
 public:
  // Documents below `fraction` are held out; 0: none.
  HeldoutChoice(uint64_t seed, double fraction)
      : seed_(seed), fraction_(fraction), threshold_(fraction) {}

  // Every document's name, once, before the first question.
  void Observe(const std::string& name);
  // Holds out the document with the smallest hash where none is below the fraction. InvalidArgument
  // where that would leave nothing to train on.
  absl::Status Decide();
  bool IsHeldOut(const std::string& name) const { return Hash(name) < threshold_; }

 private:
  double Hash(const std::string& name) const;

  uint64_t seed_;
  double fraction_;
  double threshold_;
  double smallest_ = 1.0;
  int64_t documents_ = 0;
  int64_t held_out_ = 0;
};

}  // namespace plait
