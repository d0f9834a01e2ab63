#include "data/heldout_choice.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "base/random.h"

namespace plait {

double HeldoutChoice::Hash(const std::string& name) const {
  return RandomKey(seed_, RandomPurpose::kSampleOrder, "held out/" + name).Uniform(0);
}

void HeldoutChoice::Observe(const std::string& name) {
  const double hash = Hash(name);
  smallest_ = std::min(smallest_, hash);
  ++documents_;
  if (hash < fraction_) ++held_out_;
}

absl::Status HeldoutChoice::Decide() {
  if (fraction_ == 0) return absl::OkStatus();
  if (held_out_ == 0) {
    threshold_ = std::nextafter(smallest_, 2.0);
    held_out_ = 1;
  }
  if (held_out_ < documents_) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("holding out a share of ", fraction_, " of ", documents_,
                   documents_ == 1 ? " document" : " documents",
                   " leaves none to train on: give a held-out input of its own, more"
                   " documents, or a held-out share of 0"));
}

}  // namespace plait
