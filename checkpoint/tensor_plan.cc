#include "checkpoint/tensor_plan.h"

#include <algorithm>
#include <unordered_map>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/check.h"

namespace plait {
namespace {

constexpr size_t kProblemsInFull = 20;
constexpr char kEmbedding[] = "model.embed_tokens.weight";
constexpr char kHead[] = "lm_head.weight";
constexpr char kRotaryBuffer[] = "rotary_emb.inv_freq";
constexpr char kGateUp[] = ".experts.gate_up_proj";
constexpr char kDown[] = ".experts.down_proj";

// A run of a logical tensor's elements under a name of its own.
struct Part {
  std::string name;
  Shape shape;
  int64_t begin = 0;  // in the logical tensor
  int64_t end() const { return begin + shape.num_elements(); }
};

// Empty where the tensor is not of experts.
std::vector<Part> PartsPerExpert(const LogicalTensor& tensor) {
  const bool is_gate_up = absl::EndsWith(tensor.name, kGateUp);
  if ((!is_gate_up && !absl::EndsWith(tensor.name, kDown)) || tensor.shape.rank() != 3) return {};
  const std::string experts = tensor.name.substr(0, tensor.name.rfind('.') + 1);
  std::vector<const char*> kinds = {"down_proj"};
  if (is_gate_up) kinds = {"gate_proj", "up_proj"};
  const Shape shape{tensor.shape[1] / static_cast<int64_t>(kinds.size()), tensor.shape[2]};
  std::vector<Part> parts;
  for (int64_t expert = 0; expert < tensor.shape[0]; ++expert) {
    for (const char* kind : kinds) {
      const int64_t begin = parts.empty() ? 0 : parts.back().end();
      parts.push_back({absl::StrCat(experts, expert, ".", kind, ".weight"), shape, begin});
    }
  }
  return parts;
}

std::string ShapeText(std::span<const int64_t> sizes) {
  return absl::StrCat("[", absl::StrJoin(sizes.begin(), sizes.end(), ", "), "]");
}

class Planner {
 public:
  Planner(std::span<const SourceTensor> sources, const TensorPlanOptions& options)
      : sources_(sources), options_(options), used_(sources.size()) {
    for (size_t i = 0; i < sources.size(); ++i) {
      if (!by_name_.emplace(sources[i].name, i).second) Problem(sources[i].name, "is there twice");
    }
  }

  void Add(const LogicalTensor& tensor) {
    const std::vector<Part> parts = PartsPerExpert(tensor);
    const std::vector<Part> whole = {{tensor.name, tensor.shape, 0}};
    const bool has_whole = by_name_.count(tensor.name) > 0;
    const auto part = std::find_if(parts.begin(), parts.end(),
                                   [this](const Part& p) { return by_name_.count(p.name) > 0; });
    if (has_whole && part != parts.end()) {
      Problem(tensor.name, absl::StrCat("is there twice, fused and per expert (", part->name, ")"));
    } else if (!has_whole && part == parts.end() && !parts.empty()) {
      Problem(tensor.name, absl::StrCat("missing, fused and per expert (", parts[0].name, ")"));
      return;
    }
    const std::vector<Part>& found = has_whole || parts.empty() ? whole : parts;
    if (has_whole) Use(parts);
    const std::optional<DType> dtype = CheckSources(found);
    if (!dtype) return;
    const bool split = options_.target == ExpertLayout::kPerExpert && !parts.empty();
    for (const Part& target : split ? parts : whole) Target(target, found, *dtype);
  }

  // What no logical tensor uses.
  void AddRest() {
    for (size_t i = 0; i < sources_.size(); ++i) {
      if (used_[i]) continue;
      const SourceTensor& source = sources_[i];
      const auto embedding = by_name_.find(kEmbedding);
      if (absl::EndsWith(source.name, kRotaryBuffer)) {
        plan_.ignored.push_back(i);
      } else if (source.name != kHead || embedding == by_name_.end()) {
        Problem(source.name, "is no tensor of this model");
      } else if (const SourceTensor& original = sources_[embedding->second];
                 source.shape != original.shape || source.dtype != original.dtype) {
        Problem(source.name, absl::StrCat("is ", Name(source.dtype), " ", ShapeText(source.shape),
                                          ", the embedding that it is tied to ",
                                          Name(original.dtype), " ", ShapeText(original.shape)));
      } else {
        plan_.copies.push_back({i, embedding->second});
      }
    }
  }

  absl::StatusOr<TensorPlan> Finish() {
    if (problems_.empty()) return std::move(plan_);
    const size_t shown = std::min(problems_.size(), kProblemsInFull);
    std::string text =
        absl::StrJoin(problems_.begin(), problems_.begin() + static_cast<ptrdiff_t>(shown), "; ");
    if (shown < problems_.size())
      absl::StrAppend(&text, "; and ", problems_.size() - shown, " more");
    return absl::FailedPreconditionError(text);
  }

 private:
  void Problem(const std::string& name, const std::string& what) {
    problems_.push_back(absl::StrCat(PrintableName(name), ": ", what));
  }

  void Use(const std::vector<Part>& parts) {
    for (const Part& part : parts) {
      if (const auto found = by_name_.find(part.name); found != by_name_.end()) {
        used_[found->second] = true;
      }
    }
  }

  // Every part is there, of its shape and of an element type that can be stored. Returns the dtype
  // of what is made of them; absent where there is a problem.
  std::optional<DType> CheckSources(const std::vector<Part>& parts) {
    Use(parts);
    const size_t problems = problems_.size();
    const SourceTensor* first = nullptr;
    for (const Part& part : parts) {
      const auto found = by_name_.find(part.name);
      if (found == by_name_.end()) {
        Problem(part.name, "missing");
        continue;
      }
      const SourceTensor& source = sources_[found->second];
      const std::span<const int64_t> expected = part.shape.sizes();
      if (!std::equal(source.shape.begin(), source.shape.end(), expected.begin(), expected.end())) {
        Problem(part.name, absl::StrCat("expected shape ", ShapeText(expected), ", found ",
                                        ShapeText(source.shape)));
      }
      if (source.dtype != SafetensorsDType::kF32 && source.dtype != SafetensorsDType::kBf16 &&
          source.dtype != SafetensorsDType::kF16) {
        Problem(part.name, absl::StrCat("expected F32, BF16 or F16, found ", Name(source.dtype)));
      }
      if (first == nullptr) first = &source;
      if (source.dtype != first->dtype && !options_.dtype) {
        Problem(part.name, absl::StrCat("is ", Name(source.dtype), ", ", first->name, " is ",
                                        Name(first->dtype),
                                        ": experts have one dtype; choose one with --dtype"));
      }
    }
    if (problems_.size() > problems) return std::nullopt;
    return options_.dtype ? options_.dtype : DTypeFor(first->dtype);
  }

  // `found` covers the logical tensor that `target` is a part of.
  void Target(const Part& target, const std::vector<Part>& found, DType dtype) {
    PlannedTensor planned{target.name, dtype, target.shape, {}};
    for (const Part& part : found) {
      const int64_t begin = std::max(part.begin, target.begin);
      const int64_t end = std::min(part.end(), target.end());
      if (begin >= end) continue;
      planned.segments.push_back({by_name_.at(part.name), begin - part.begin, end - begin});
    }
    plan_.targets.push_back(std::move(planned));
  }

  std::span<const SourceTensor> sources_;
  TensorPlanOptions options_;
  std::unordered_map<std::string, size_t> by_name_;
  std::vector<bool> used_;
  std::vector<std::string> problems_;
  TensorPlan plan_;
};

}  // namespace

absl::StatusOr<TensorPlan> PlanTensors(std::span<const LogicalTensor> wanted,
                                       std::span<const SourceTensor> sources,
                                       const TensorPlanOptions& options) {
  Planner planner(sources, options);
  for (const LogicalTensor& tensor : wanted) planner.Add(tensor);
  planner.AddRest();
  return planner.Finish();
}

}  // namespace plait
