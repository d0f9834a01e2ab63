// Runs of stored floating-point numbers from one element type to another: what changes the dtype of
// a tensor, in pieces. Widening is exact; narrowing rounds to nearest, ties to even, and refuses to
// make infinity of a finite number.
#pragma once

#include <cstdint>
#include <string_view>

#include "absl/status/status.h"
#include "base/view.h"

namespace plait {

// from, to: as many elements, each of bf16, f16 or f32 (`to` may be f64), not overlapping. `to` is
// overwritten.
// Infinities and NaN stay what they are. InvalidArgument for other dtypes; OutOfRange, "name:
// element 12: 70000 is outside the range of f16", for the first finite number that would become
// infinite; `name` is the tensor's and `first_element` the index of from[0] in it.
absl::Status ConvertFloats(std::string_view name, int64_t first_element, ConstVectorView from,
                           VectorView to);

}  // namespace plait
