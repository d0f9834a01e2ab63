#include "trainer/packing_check.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/random.h"
#include "base/status_macros.h"
#include "checkpoint/shard_overlap.h"
#include "parallel/host_collectives.h"
#include "parallel/local_communicator.h"
#include "parallel/status_agreement.h"
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
                                DType precision, const TokenPart& part, PackingFault fault) {
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
      Tensor::FromValues<int32_t>({static_cast<int64_t>(offsets.size())}, offsets), precision,
      part);
}

absl::StatusOr<Recipe> PackingRecipe(CheckedModel model, DType precision,
                                     const CheckedLayout& layout) {
  PLAIT_ASSIGN_OR_RETURN(Recipe recipe, CheckedRecipe(model, precision, layout));
  if (recipe.model().has_experts()) {
    recipe.mutable_model()->mutable_experts()->set_balance_loss_coefficient(0);
    recipe.mutable_model()->mutable_experts()->set_z_loss_coefficient(0);
  }
  recipe.mutable_model()->clear_activation_loss();
  return recipe;
}

// What of B can be seen on this rank.
struct Observed {
  Tensor log_probability;  // [tokens of B in the rank's segment]
  Tensor input_gradient;   // [elements of B's ids in the rank's share]
};

// gradient: of this rank's share, on the host.
Tensor InputGradient(const ShardedParameter& embedding, const Tensor& gradient) {
  const int64_t first = kFirstId * embedding.spec.logical_shape[1];
  std::vector<Tensor> parts;
  int64_t elements = 0;
  for (const ShardRun& run : RunsOf(embedding.spec)) {
    const int64_t skip = std::clamp<int64_t>(first - run.logical, 0, run.length);
    if (skip == run.length) continue;
    parts.push_back(gradient.Flat(run.shard + skip, {run.length - skip}));
    elements += run.length - skip;
  }
  Tensor input_gradient = Tensor::OnHost(gradient.dtype(), {elements});
  char* to = static_cast<char*>(input_gradient.raw());
  for (const Tensor& part : parts) {
    std::memcpy(to, part.raw(), part.bytes());
    to += part.bytes();
  }
  return input_gradient;
}

class PackedModel {
 public:
  // Collective, as Observe.
  static absl::StatusOr<std::unique_ptr<PackedModel>> Create(
      const std::shared_ptr<Communicator>& world, const ExecutionOptions& execution,
      const Recipe& recipe) {
    std::unique_ptr<PackedModel> packed(new PackedModel(execution));
    PLAIT_ASSIGN_OR_RETURN(packed->runtime_,
                           ModelRuntime::Create(packed->execution_, recipe, world));
    PLAIT_RETURN_IF_ERROR(
        packed->runtime_.model->Initialize(*packed->runtime_.sharder, recipe.seed()));
    return packed;
  }

  // Every data-parallel rank has the same microbatch.
  absl::StatusOr<Observed> Observe(const std::vector<int32_t>& a, const std::vector<int32_t>& b,
                                   PackingFault fault) {
    LanguageModel& model = *runtime_.model;
    ParameterSharder& sharder = *runtime_.sharder;
    PLAIT_ASSIGN_OR_RETURN(const Microbatch microbatch,
                           Pack(a, b, model.dtype(), TokenPart::Of(*runtime_.mesh), fault));
    const StepCounts counts{.weight_sum = static_cast<double>(b.size() - 1),
                            .real_tokens = static_cast<double>(a.size() + b.size())};
    PLAIT_RETURN_IF_ERROR(sharder.ZeroGradients());
    PLAIT_ASSIGN_OR_RETURN(const MicrobatchLosses losses,
                           model.LossAndGradient(execution_, sharder, microbatch, counts));
    PLAIT_RETURN_IF_ERROR(sharder.FinishGradients(execution_));
    const SequenceLayout& layout = microbatch.layout;
    const int64_t begin = std::clamp<int64_t>(static_cast<int64_t>(a.size()) - layout.segment_begin,
                                              0, layout.tokens);
    PLAIT_ASSIGN_OR_RETURN(const Tensor log_probability, execution_.ToHost(losses.log_probability));
    Observed observed{.log_probability = log_probability.Slice(begin, layout.tokens).Clone()};
    for (const ShardedParameter& parameter : sharder.sharded()) {
      if (parameter.name != "model.embed_tokens.weight") continue;
      PLAIT_ASSIGN_OR_RETURN(const Tensor gradient, execution_.ToHost(parameter.gradient));
      observed.input_gradient = InputGradient(parameter, gradient);
    }
    return observed;
  }

 private:
  explicit PackedModel(const ExecutionOptions& execution) : execution_(execution) {}

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

const std::vector<CheckedLayout>& PackingLayouts() {
  static const std::vector<CheckedLayout>* const layouts = new std::vector<CheckedLayout>{
      {},
      {.sizes = {.tensor = 2}},
      {.sizes = {.context = 2}},
      {.sizes = {.context = 4}, .variant = "ring", .settings = {"parallel.context_attention=RING"}},
      {.sizes = {.shard = 2, .context = 2, .expert = 4}, .models = {CheckedModel::kJamba}},
  };
  return *layouts;
}

absl::StatusOr<PackingVerdict> CheckPacking(const std::shared_ptr<Communicator>& world,
                                            CheckedModel model, DType precision,
                                            const CheckedLayout& layout, PackingFault fault,
                                            const ExecutionOptions& execution) {
  PLAIT_CHECK(model != CheckedModel::kTiedJamba);
  struct Other {
    int64_t tokens;
    uint64_t seed;
  };
  // They differ in what they hold; on one rank, where a document's place does not decide which of
  // its sums are cut between ranks, in length too: around the chunks of the scan and the rows that
  // kernels take at a time.
  std::vector<Other> others = {{31, 2}, {31, 3}, {31, 4}, {31, 5}};
  if (world->size() == 1) {
    for (const int64_t tokens : {0, 1, 29, 32, 33, 64, 200}) others.push_back({tokens, 2});
  }
  PLAIT_ASSIGN_OR_RETURN(const Recipe recipe, PackingRecipe(model, precision, layout));
  PLAIT_ASSIGN_OR_RETURN(const auto packed, PackedModel::Create(world, execution, recipe));
  const std::vector<int32_t> b = Document(kDocumentTokens, /*seed=*/1, kFirstId);
  Observed first;
  double differing[] = {0, 0};
  for (size_t i = 0; i < others.size(); ++i) {
    const std::vector<int32_t> a = Document(others[i].tokens, others[i].seed, /*first_id=*/0);
    PLAIT_ASSIGN_OR_RETURN(Observed observed, packed->Observe(a, b, fault));
    if (i == 0) {
      first = std::move(observed);
      continue;
    }
    differing[0] += NumDifferingElements(observed.log_probability, first.log_probability);
    differing[1] += NumDifferingElements(observed.input_gradient, first.input_gradient);
  }
  PLAIT_RETURN_IF_ERROR(
      AllReduceOnHost(*world, {differing, DType::kF64, 2}, ReduceOperation::kSum));
  return PackingVerdict{.documents = static_cast<int>(others.size()),
                        .differing_outputs = static_cast<int64_t>(differing[0]),
                        .differing_gradients = static_cast<int64_t>(differing[1])};
}

absl::StatusOr<PackingVerdict> CheckPacking(CheckedModel model, DType precision,
                                            const CheckedLayout& layout, PackingFault fault,
                                            const DeviceOfRank& device_of_rank) {
  PackingVerdict verdict;
  PLAIT_RETURN_IF_ERROR(RunLocalRanks(
      layout.ranks(), [&](const std::shared_ptr<Communicator>& world) -> absl::Status {
        const auto execution = device_of_rank(world->rank());
        const absl::Status found = AgreeOnStatus(*world, execution.status());
        if (!found.ok()) return found;
        PLAIT_ASSIGN_OR_RETURN(const PackingVerdict own,
                               CheckPacking(world, model, precision, layout, fault, *execution));
        if (world->rank() == 0) verdict = own;
        return absl::OkStatus();
      }));
  return verdict;
}

}  // namespace plait
