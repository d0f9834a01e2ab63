// What bf16 costs one rank's step, and so what a layout's may cost: how far from the same step at
// f64 each number may be. The step at f64 has exactly the compute values of that at bf16, so that
// only arithmetic differs, and routing is clear (clear_routing.h), so that only roundings do.
//
// A step's error is the sum of its microbatches', e = sum_l e_l. Roundings are independent of one
// another, with mean 0, and microbatches share none:
//   E |e|^2 = sum_l E |e_l|^2, measured once per microbatch:   sigma^2 = sum_l |e_l|^2
// so sigma has eight or twelve times the samples that |e| of one step would be.
//
// What a layout adds, as `variance`, its E |e|^2 over one rank's:
//   context, expert: 1. The same values are rounded; sums in f32 are grouped differently, which
//     turns roundings that were nearly a tie, and these turn others: at most all of them.
//   tensor: at most 2. A row-parallel product (out of a mixer or a feed-forward, x_proj, the
//     gradients of what column-parallel ones read) is a sum of T parts that are each rounded before
//     they are added and rounded again. Parts that are independent have squares that add up to the
//     square of the sum, so T roundings of parts are one of the whole, whatever T: two roundings
//     where one rank has one. All others are the same in number, so every term of E |e|^2 is at
//     most doubled.
//   replicate, shard, pipeline: nothing is rounded differently; the numbers are those of one rank
//     at bf16 but for sums over microbatches in f32 (CheckedLayout::bound).
//
// How far |e| may be above its root mean square: the more independent directions e has, the less.
// With n of them, |e|^2 / E |e|^2 is about chi-squared_n / n and |e| about 1 +- 1 / sqrt(2 n):
//   |e| <= sqrt(variance) x sigma x (1 + 5 / sqrt(2 n)) + 2^-8 x |exact|
// The tail above is 6e-6 for n = 1, 3e-6 for 6, 5e-7 for 1000, where variance is what it can be;
// some thousand numbers are compared. Errors of two microbatches have E cos^2 = 1 / n, so
//   n = sum_{l != m} |e_l|^2 |e_m|^2 / sum_{l != m} (e_l . e_m)^2
// and 1 for single numbers. An error that all microbatches share makes n as small as it must be.
// The last term is one rounding of the result. Maxima: of the microbatches' errors the largest
// instead of sigma, as |max a - max b| <= max |a - b|. The gradient norm: the norm of what the
// gradients may err.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "data/batch.h"
#include "trainer/step_quantities.h"

namespace plait {

namespace recipe::v1 {
class Recipe;
}

struct RoundingReference {
  struct Errors {
    std::vector<double> sigma;  // one for a tensor, else of each number
    double directions = 1;
  };

  std::vector<Batch> leaves;        // the step's microbatches
  std::vector<StepQuantity> exact;  // of the step at f64, in the order of QuantitiesOf
  std::map<std::string, Errors> errors;

  // The largest error of number i (of a tensor: 0) of a quantity, whose size is given.
  double Allowed(const std::string& quantity, size_t i, double size, double variance) const;
};

// rounded, exact: of one model on one rank, at bf16 and f64. leaves: the microbatches to begin
// with. FailedPrecondition where their routing cannot be made clear.
absl::StatusOr<RoundingReference> MeasureRounding(const recipe::v1::Recipe& rounded,
                                                  const recipe::v1::Recipe& exact,
                                                  std::vector<Batch> leaves);

}  // namespace plait
