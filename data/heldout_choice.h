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

  // What was seen of the documents' names: all that Decide needs.
  struct Observed {
    double smallest_hash = 1.0;
    int64_t documents = 0;
    int64_t below_fraction = 0;
  };

  // Every document's name, once, before the first question.
  void Observe(const std::string& name);
  // Where several readers observed a part each: what one saw, and what all saw together instead.
  const Observed& observed() const { return observed_; }
  void SetObserved(const Observed& all) { observed_ = all; }
  // Holds out the document with the smallest hash where none is below the fraction. InvalidArgument
  // where that would leave nothing to train on.
  absl::Status Decide();
  bool IsHeldOut(const std::string& name) const { return Hash(name) < threshold_; }

 private:
  double Hash(const std::string& name) const;

  uint64_t seed_;
  double fraction_;
  double threshold_;
  Observed observed_;
};

}  // namespace plait
