// Central differences in double: the numeric gradient of a scalar function with respect to every
// element of a tensor.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <string>

#include "base/tensor.h"

namespace plait {

struct FiniteDifferenceOptions {
  // The error of a central difference is about step^2 from truncation and epsilon / step from
  // rounding: near 1e-9 here.
  double step = 1e-5;
  // Bound on |numeric - analytic| <= relative * max(1, largest |numeric|).
  double relative = 1e-7;
};

// loss: evaluates the scalar with the current elements of `x` (f64, changed and restored in place).
inline void ExpectGradientMatches(const std::string& name, Tensor& x, const Tensor& analytic,
                                  const std::function<double()>& loss,
                                  const FiniteDifferenceOptions& options = {}) {
  ASSERT_EQ(x.num_elements(), analytic.num_elements()) << name;
  std::vector<double> numeric(static_cast<size_t>(x.num_elements()));
  double largest = 1.0;
  for (int64_t i = 0; i < x.num_elements(); ++i) {
    double& element = x.data<double>()[i];
    const double kept = element;
    element = kept + options.step;
    const double above = loss();
    element = kept - options.step;
    const double below = loss();
    element = kept;
    numeric[i] = (above - below) / (2 * options.step);
    largest = std::max(largest, std::abs(numeric[i]));
  }
  for (int64_t i = 0; i < x.num_elements(); ++i) {
    EXPECT_NEAR(analytic.data<double>()[i], numeric[i], options.relative * largest)
        << name << " element " << i;
  }
}

// sum_i x[i] w[i], both f64: a scalar whose gradient with respect to x is w.
inline double WeightedSum(const Tensor& x, const Tensor& w) {
  double sum = 0;
  for (int64_t i = 0; i < x.num_elements(); ++i) sum += x.data<double>()[i] * w.data<double>()[i];
  return sum;
}

}  // namespace plait
