// Collects the problems of a recipe. Internal to recipes/.
#pragma once

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "recipes/recipe_validation.h"

namespace plait {

constexpr int64_t kMaxAxis = 1 << 20;

class ProblemList {
 public:
  template <class T>
  void Add(const std::string& field, const T& value, const std::string& rule) {
    problems_.push_back({field, absl::StrCat(value), rule});
  }
  void AddMissing(const std::string& field, const std::string& why = "") {
    problems_.push_back({field, "", why.empty() ? "is required" : "is required " + why});
  }

  // The rules below add a problem where they do not hold and return whether they do.
  bool Require(bool has, const std::string& field, const std::string& why = "") {
    if (!has) AddMissing(field, why);
    return has;
  }
  template <class T>
  bool AtLeast(const std::string& field, T value, T minimum) {
    if (value < minimum) Add(field, value, absl::StrCat("must be at least ", minimum));
    return value >= minimum;
  }
  template <class T>
  bool AtMost(const std::string& field, T value, T maximum) {
    if (value > maximum) Add(field, value, absl::StrCat("must be at most ", maximum));
    return value <= maximum;
  }
  bool Between(const std::string& field, int64_t value, int64_t minimum, int64_t maximum) {
    return AtLeast(field, value, minimum) && AtMost(field, value, maximum);
  }
  bool Above(const std::string& field, double value, double limit) {
    if (!(value > limit)) Add(field, value, absl::StrCat("must be greater than ", limit));
    return value > limit;
  }
  // divisor and value are both at least 1.
  bool Divides(const std::string& divisor_field, int64_t divisor, const std::string& field,
               int64_t value) {
    if (value % divisor == 0) return true;
    Add(divisor_field, divisor, absl::StrCat("does not divide ", field, " = ", value));
    return false;
  }

  std::vector<RecipeProblem> Take() { return std::move(problems_); }

 private:
  std::vector<RecipeProblem> problems_;
};

// The rules of the `model` message and of the mesh axes that cut it; both are resolved.
void CheckModel(const recipe::v1::Recipe& recipe, ProblemList& problems);

}  // namespace plait
