// Parity: what another implementation computed with the same weights, compared number by number.
// The reference is an HDF5 file; tools/make_parity_fixtures.py documents its layout and writes it
// from transformers.
//   logits          |ours - reference|, the largest; the tolerance is in units of the larger of 1
//   and
//                   the root mean square of the reference's logits, for f32 rounds in proportion
//   loss            |ours - reference| / max(1, |reference|); so for auxiliary_loss
//   gradients/NAME  largest |ours - reference| / max(largest |reference| of the tensor, 1e-6 x that
//                   of all tensors: a gradient of zeros has no size of its own)
//   greedy          our largest logit less our logit of the reference's token, the largest over all
//                   steps, each of which continues the reference's tokens from the cache. 0 where
//                   every token is ours too; at most twice the tolerance of the logits where two
//                   tokens are as good as equal, within which either may come first.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "base/execution.h"
#include "base/foreign_hdf5_file.h"
#include "trainer/model_runtime.h"

namespace plait {

struct ParityTolerances {
  double logits = 1e-4;
  double loss = 1e-5;
  double gradients = 1e-4;
};

struct ParityOptions {
  // Absent ones are attributes of the reference, else the defaults above.
  std::optional<double> tolerance_logits, tolerance_loss, tolerance_gradients;
  // Of the auxiliary loss within the loss; an attribute of the reference goes before it. Where it
  // is this one, a reference whose loss was made without any auxiliary loss is recognised.
  double auxiliary_loss_coefficient = 0;
  // The reference gives this row of the embedding no gradient from look-ups.
  std::optional<int64_t> padding_id;
  // Where one of these ends a row of `greedy` and only padding follows, the row ends there.
  std::vector<int64_t> end_ids;
};

// One compared tensor, at its worst element.
struct ParityDifference {
  std::string name;
  std::vector<int64_t> index;
  double ours = 0;  // of `greedy` a token, as the reference's
  double reference = 0;
  double error = 0;
  double tolerance = 0;

  bool passed() const { return error <= tolerance; }  // NaN does not
};

struct ParityReport {
  std::vector<ParityDifference> differences;
  double auxiliary_loss_coefficient = 0;      // that the loss was compared with
  std::vector<std::string> without_gradient;  // parameters that `gradients` lacks, if it is there

  bool passed() const;
};

// The recipe that a model is compared under: f32, no loss but those of the reference, and the
// auxiliary loss unscaled. The same weights belong to it.
recipe::v1::Recipe ParityRecipe(recipe::v1::Recipe recipe);

// runtime: of a ParityRecipe, on one rank, with its weights loaded. Gradients are overwritten.
// InvalidArgument, naming the dataset, where the reference is of another shape or vocabulary or has
// tensors that the model does not have.
absl::StatusOr<ParityReport> CompareWithReference(Execution& execution, ModelRuntime& runtime,
                                                  const ForeignHdf5File& reference,
                                                  const ParityOptions& options);

}  // namespace plait
