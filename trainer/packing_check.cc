#include "trainer/packing_check.h"

#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/random.h"
#include "base/status_macros.h"
#include "recipes/schema/recipe.pb.h"
#include "trainer/model_runtime.h"

namespace plait {
namespace {

using recipe::v1::Recipe;

constexpr int64_t kDocumentTokens = 41;  // of B
constexpr int32_t kFirstId = 24;         // of B; A has lower ones
constexpr int32_t kNumIds = 24;          // of either

std::vector<int32_t> Document(int64_t tokens, uint64_t seed, int32_t first_id) {
  const RandomKey key(seed, RandomPurpose::kTest, "packed document");
  std::vector<int32_t> ids;
  for (int64_t t = 0; t < tokens; ++t) {
    ids.push_back(first_id +
                  static_cast<int32_t>(key.Words(static_cast<uint64_t>(t))[0] % kNumIds));
  }
  return ids;
}

// A, which may be of no tokens, then B.
absl::StatusOr<Microbatch> Pack(const std::vector<int32_t>& a, const std::vector<int32_t>& b,
                                DType precision, PackingFault fault) {
  std::vector<int32_t> ids = a, offsets = {0};
  ids.insert(ids.end(), b.begin(), b.end());
  if (!a.empty() && fault == PackingFault::kNone) offsets.push_back(static_cast<int32_t>(a.size()));
  offsets.push_back(static_cast<int32_t>(ids.size()));
  std::vector<int32_t> targets(ids.size(), 0);
  std::vector<float> weights(ids.size(), 0.0f);
  for (size_t t = 0; t + 1 < b.size(); ++t) {
    targets[a.size() + t] = b[t + 1];
    weights[a.size() + t] = 1.0f;
  }
  const auto tokens = static_cast<int64_t>(ids.size());
  return Microbatch::Create(
      Tensor::FromValues<int32_t>({tokens}, ids), Tensor::FromValues<int32_t>({tokens}, targets),
      Tensor::FromValues<float>({tokens}, weights),
      Tensor::FromValues<int32_t>({static_cast<int64_t>(offsets.size())}, offsets), precision);
}

absl::StatusOr<Recipe> PackingRecipe(CheckedModel model, DType precision) {
  PLAIT_ASSIGN_OR_RETURN(Recipe recipe, CheckedRecipe(model, precision, {}));
  if (recipe.model().has_experts()) {
    recipe.mutable_model()->mutable_experts()->set_balance_loss_coefficient(0);
    recipe.mutable_model()->mutable_experts()->set_z_loss_coefficient(0);
  }
  recipe.mutable_model()->clear_activation_loss();
  return recipe;
}

// What of B can be seen.
struct Observed {
  Tensor log_probability;  // [tokens of B]
  Tensor input_gradient;   // [ids, model_dim]
};

class PackedModel {
 public:
  static absl::StatusOr<std::unique_ptr<PackedModel>> Create(CheckedModel model, DType precision) {
    PLAIT_ASSIGN_OR_RETURN(const Recipe recipe, PackingRecipe(model, precision));
    std::unique_ptr<PackedModel> packed(new PackedModel);
    PLAIT_ASSIGN_OR_RETURN(packed->runtime_, ModelRuntime::Create(packed->execution_, recipe));
    PLAIT_RETURN_IF_ERROR(
        packed->runtime_.model->Initialize(*packed->runtime_.sharder, recipe.seed()));
    return packed;
  }

  absl::StatusOr<Observed> Observe(const std::vector<int32_t>& a, const std::vector<int32_t>& b,
                                   PackingFault fault) {
    LanguageModel& model = *runtime_.model;
    ParameterSharder& sharder = *runtime_.sharder;
    PLAIT_ASSIGN_OR_RETURN(const Microbatch microbatch, Pack(a, b, model.dtype(), fault));
    const StepCounts counts{.weight_sum = static_cast<double>(b.size() - 1),
                            .real_tokens = static_cast<double>(a.size() + b.size())};
    sharder.ZeroGradients();
    PLAIT_ASSIGN_OR_RETURN(const MicrobatchLosses losses,
                           model.LossAndGradient(execution_, sharder, microbatch, counts));
    PLAIT_RETURN_IF_ERROR(sharder.FinishGradients(execution_));
    const auto begin = static_cast<int64_t>(a.size());
    Observed observed{
        .log_probability =
            losses.log_probability.Slice(begin, begin + static_cast<int64_t>(b.size())).Clone()};
    for (const ShardedParameter& parameter : sharder.sharded()) {
      if (parameter.name != "model.embed_tokens.weight") continue;
      observed.input_gradient = parameter.gradient.Reshape(parameter.spec.logical_shape)
                                    .Slice(kFirstId, kFirstId + kNumIds)
                                    .Clone();
    }
    return observed;
  }

 private:
  PackedModel() = default;

  Execution execution_;
  ModelRuntime runtime_;
};

int64_t NumDifferingElements(const Tensor& a, const Tensor& b) {
  PLAIT_CHECK(a.dtype() == b.dtype() && a.num_elements() == b.num_elements());
  const size_t width = SizeOf(a.dtype());
  int64_t count = 0;
  for (size_t offset = 0; offset < a.bytes(); offset += width) {
    count += std::memcmp(static_cast<const char*>(a.raw()) + offset,
                         static_cast<const char*>(b.raw()) + offset, width) != 0;
  }
  return count;
}

}  // namespace

absl::StatusOr<PackingVerdict> CheckPacking(CheckedModel model, DType precision,
                                            PackingFault fault) {
  PLAIT_CHECK(model != CheckedModel::kTiedJamba);
  struct Other {
    int64_t tokens;
    uint64_t seed;
  };
  // The first three differ in what they hold, the others in length: around the chunks of the scan
  // and the rows that kernels take at a time.
  constexpr Other kOthers[] = {{29, 2}, {29, 3}, {29, 4}, {0, 2},  {1, 2},
                               {31, 2}, {32, 2}, {33, 2}, {64, 2}, {200, 2}};
  PLAIT_ASSIGN_OR_RETURN(const auto packed, PackedModel::Create(model, precision));
  const std::vector<int32_t> b = Document(kDocumentTokens, /*seed=*/1, kFirstId);
  PackingVerdict verdict;
  Observed first;
  for (const Other& other : kOthers) {
    const std::vector<int32_t> a = Document(other.tokens, other.seed, /*first_id=*/0);
    PLAIT_ASSIGN_OR_RETURN(Observed observed, packed->Observe(a, b, fault));
    if (verdict.documents++ == 0) {
      first = std::move(observed);
    } else {
      verdict.differing_outputs +=
          NumDifferingElements(observed.log_probability, first.log_probability);
      verdict.differing_gradients +=
          NumDifferingElements(observed.input_gradient, first.input_gradient);
    }
  }
  return verdict;
}

}  // namespace plait
