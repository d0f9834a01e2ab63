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
  observed_.smallest_hash = std::min(observed_.smallest_hash, hash);
  ++observed_.documents;
  if (hash < fraction_) ++observed_.below_fraction;
}

absl::Status HeldoutChoice::Decide() {
  if (fraction_ == 0) return absl::OkStatus();
  int64_t held_out = observed_.below_fraction;
  if (held_out == 0) {
    threshold_ = std::nextafter(observed_.smallest_hash, 2.0);
    held_out = 1;
  }
  if (held_out < observed_.documents) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("holding out a share of ", fraction_, " of ", observed_.documents,
                   observed_.documents == 1 ? " document" : " documents",
                   " leaves none to train on: give a held-out input of its own, more"
                   " documents, or a held-out share of 0"));
}

}  // namespace plait
