// The candidate that a misspelt name most likely means: least edit distance, at most a third of its
// length (and one).
#pragma once

#include <optional>
#include <string>
#include <vector>

namespace plait {

// Nothing where no candidate is near. Letter case is ignored. Of equally near ones, the first.
std::optional<std::string> NearestName(const std::string& name,
                                       const std::vector<std::string>& candidates);

}  // namespace plait
