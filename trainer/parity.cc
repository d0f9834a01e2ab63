#include "trainer/parity.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "base/status_macros.h"
#include "model/decoding/decoding_session.h"
#include "recipes/schema/recipe.pb.h"

namespace plait {
namespace {

constexpr char kGradients[] = "gradients";
constexpr double kSmallestGradientScale = 1e-6;  // of the largest gradient

absl::Status WrongShape(const ForeignHdf5File& file, const std::string& name, const Shape& found,
                        const std::string& expected) {
  return absl::InvalidArgumentError(
      absl::StrCat(file.path(), ": ", name, ": expected ", expected, ", found ", found.ToString()));
}

std::vector<int64_t> IndexOf(int64_t element, const Shape& shape) {
  std::vector<int64_t> index(shape.rank());
  for (int dim = shape.rank() - 1; dim >= 0; --dim) {
    index[dim] = element % shape[dim];
    element /= shape[dim];
  }
  return index;
}

// The element of the largest absolute difference, which is left in `error`; one that is no number
// counts as the largest. Both: f32, as many elements as the shape has.
ParityDifference WorstOf(const std::string& name, const float* ours, const float* reference,
                         const Shape& shape) {
  ParityDifference worst{.name = name};
  int64_t at = -1;
  for (int64_t i = 0; i < shape.num_elements(); ++i) {
    const double difference = std::abs(static_cast<double>(ours[i]) - reference[i]);
    if (at >= 0 && difference <= worst.error) continue;
    at = i;
    worst.error = difference;
    if (std::isnan(difference)) break;
  }
  if (at < 0) return worst;
  worst.index = IndexOf(at, shape);
  worst.ours = ours[at];
  worst.reference = reference[at];
  return worst;
}

double RootMeanSquare(const Tensor& tensor) {
  double sum = 0;
  for (const float value : tensor.values<float>()) sum += static_cast<double>(value) * value;
  return std::sqrt(sum / static_cast<double>(tensor.num_elements()));
}

double LargestOf(const Tensor& tensor) {
  double largest = 0;
  for (const float value : tensor.values<float>())
    largest = std::max(largest, std::abs(static_cast<double>(value)));
  return largest;
}

// Where a tensor of a Hugging Face file lies in ours: expert matrices are rows of the fused ones.
struct Place {
  const ShardedParameter* parameter = nullptr;
  int64_t begin = 0;  // element
  Shape shape;        // as the file has it
};

class GradientPlaces {
 public:
  explicit GradientPlaces(std::span<const ShardedParameter> parameters) {
    for (const ShardedParameter& parameter : parameters) parameters_[parameter.name] = &parameter;
  }

  std::optional<Place> Find(const std::string& name) const {
    if (const ShardedParameter* parameter = Parameter(name))
      return Place{parameter, 0, Shape(parameter->spec.logical_shape.sizes())};
    // Tied: the embedding under its other name.
    if (name == "lm_head.weight") return Find("model.embed_tokens.weight");
    return FindExpert(name);
  }

 private:
  const ShardedParameter* Parameter(const std::string& name) const {
    const auto found = parameters_.find(name);
    return found == parameters_.end() ? nullptr : found->second;
  }

  // "PREFIX.experts.3.up_proj.weight"
  std::optional<Place> FindExpert(const std::string& name) const {
    const std::vector<std::string> parts = absl::StrSplit(name, '.');
    const size_t count = parts.size();
    int64_t expert = 0;
    if (count < 4 || parts[count - 4] != "experts" || parts[count - 1] != "weight" ||
        !absl::SimpleAtoi(parts[count - 3], &expert)) {
      return std::nullopt;
    }
    const std::string& matrix = parts[count - 2];
    const bool down = matrix == "down_proj";
    if (!down && matrix != "gate_proj" && matrix != "up_proj") return std::nullopt;
    const std::string prefix = absl::StrJoin(parts.begin(), parts.end() - 3, ".");
    const ShardedParameter* fused =
        Parameter(absl::StrCat(prefix, down ? ".down_proj" : ".gate_up_proj"));
    if (fused == nullptr) return std::nullopt;
    const Shape& shape = fused->spec.logical_shape;
    if (expert < 0 || expert >= shape[0]) return std::nullopt;
    const int64_t rows = down ? shape[1] : shape[1] / 2;
    const int64_t first_row = expert * shape[1] + (matrix == "up_proj" ? rows : 0);
    return Place{fused, first_row * shape[2], {rows, shape[2]}};
  }

  std::map<std::string, const ShardedParameter*> parameters_;
};

// The reference's inputs as one microbatch: every row a document, its last token without a target.
struct Inputs {
  int64_t rows = 0;
  int64_t tokens = 0;  // a row
  std::vector<int32_t> ids;
  Microbatch microbatch;
  StepCounts counts;
};

absl::StatusOr<Inputs> ReadInputs(const ForeignHdf5File& file, int64_t vocabulary) {
  PLAIT_ASSIGN_OR_RETURN(const Tensor ids, file.Read("input_ids", DType::kI64));
  const Shape& shape = ids.shape();
  if (shape.rank() != 2 || shape[0] < 1 || shape[1] < 2)
    return WrongShape(file, "input_ids", shape, "[batch, at least 2 tokens]");
  Inputs inputs{.rows = shape[0], .tokens = shape[1]};
  const int64_t count = shape.num_elements();
  std::vector<int32_t> targets(count), offsets;
  std::vector<float> weights(count, 1.0f);
  for (const int64_t id : ids.values<int64_t>()) {
    if (id < 0 || id >= vocabulary) {
      return absl::InvalidArgumentError(absl::StrCat(file.path(), ": input_ids: token ", id,
                                                     " is outside the model's ", vocabulary));
    }
    inputs.ids.push_back(static_cast<int32_t>(id));
  }
  for (int64_t row = 0; row <= inputs.rows; ++row)
    offsets.push_back(static_cast<int32_t>(row * inputs.tokens));
  for (int64_t t = 0; t < count; ++t) {
    const bool last = t % inputs.tokens == inputs.tokens - 1;
    targets[t] = last ? -1 : inputs.ids[t + 1];
    if (last) weights[t] = 0;
  }
  PLAIT_ASSIGN_OR_RETURN(
      inputs.microbatch,
      Microbatch::Create(Tensor::FromValues<int32_t>({count}, inputs.ids),
                         Tensor::FromValues<int32_t>({count}, targets),
                         Tensor::FromValues<float>({count}, weights),
                         Tensor::FromValues<int32_t>({inputs.rows + 1}, offsets), DType::kF32));
  inputs.counts = {.weight_sum = static_cast<double>(inputs.rows * (inputs.tokens - 1)),
                   .real_tokens = static_cast<double>(count)};
  return inputs;
}

absl::StatusOr<double> ReadNumber(const ForeignHdf5File& file, const std::string& name) {
  PLAIT_ASSIGN_OR_RETURN(const Tensor value, file.Read(name, DType::kF64));
  if (value.num_elements() != 1) return WrongShape(file, name, value.shape(), "a scalar");
  return *value.data<double>();
}

absl::StatusOr<ParityTolerances> TolerancesOf(const ForeignHdf5File& file,
                                              const ParityOptions& options) {
  ParityTolerances tolerances;
  const auto take = [&](const char* name, const std::optional<double>& wanted,
                        double& tolerance) -> absl::Status {
    PLAIT_ASSIGN_OR_RETURN(const std::optional<double> stated, file.NumberAttribute(name));
    tolerance = wanted.value_or(stated.value_or(tolerance));
    if (std::isfinite(tolerance) && tolerance >= 0) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat(wanted ? "" : file.path(), wanted ? "" : ": ",
                                                   name, ": expected 0 or more, found ",
                                                   tolerance));
  };
  PLAIT_RETURN_IF_ERROR(take("tolerance_logits", options.tolerance_logits, tolerances.logits));
  PLAIT_RETURN_IF_ERROR(take("tolerance_loss", options.tolerance_loss, tolerances.loss));
  PLAIT_RETURN_IF_ERROR(
      take("tolerance_gradients", options.tolerance_gradients, tolerances.gradients));
  return tolerances;
}

class Comparison {
 public:
  Comparison(Execution& execution, ModelRuntime& runtime, const ForeignHdf5File& file,
             const ParityOptions& options, const ParityTolerances& tolerances, Inputs inputs)
      : execution_(execution),
        model_(*runtime.model),
        sharder_(*runtime.sharder),
        file_(file),
        options_(options),
        tolerances_(tolerances),
        inputs_(std::move(inputs)) {}

  absl::StatusOr<ParityReport> Run() {
    LanguageModel::Saved saved;
    PLAIT_ASSIGN_OR_RETURN(const Tensor hidden,
                           model_.Forward(execution_, sharder_, inputs_.microbatch.tokens,
                                          inputs_.microbatch.layout, /*caches=*/nullptr, &saved));
    PLAIT_ASSIGN_OR_RETURN(
        AuxiliaryLosses auxiliary,
        model_.Auxiliary(execution_, inputs_.microbatch.layout, saved, inputs_.counts));
    PLAIT_RETURN_IF_ERROR(CompareLogits(hidden));
    PLAIT_RETURN_IF_ERROR(ComputeGradients(hidden, auxiliary, saved));
    if (file_.Has(kGradients)) PLAIT_RETURN_IF_ERROR(CompareGradients());
    if (file_.Has("greedy")) PLAIT_RETURN_IF_ERROR(CompareGreedy());
    return std::move(report_);
  }

 private:
  absl::Status CompareLogits(const Tensor& hidden) {
    const Shape shape{inputs_.rows, inputs_.tokens, model_.shape().vocabulary};
    PLAIT_ASSIGN_OR_RETURN(const Shape found, file_.ShapeOf("logits"));
    if (!(found == shape))
      return WrongShape(file_, "logits", found, shape.ToString() + " of the model");
    PLAIT_ASSIGN_OR_RETURN(const Tensor reference, file_.Read("logits", DType::kF32));
    PLAIT_ASSIGN_OR_RETURN(const Tensor logits, model_.head().Logits(execution_, hidden));
    ParityDifference worst =
        WorstOf("logits", logits.data<float>(), reference.data<float>(), shape);
    const double size = RootMeanSquare(reference);
    if (!std::isfinite(size)) {
      return absl::InvalidArgumentError(absl::StrCat(
          file_.path(), ": logits: not all are finite: nothing can be compared with them"));
    }
    tolerances_.logits *= std::max(1.0, size);
    worst.tolerance = tolerances_.logits;
    report_.differences.push_back(std::move(worst));
    return absl::OkStatus();
  }

  void CompareScalar(const std::string& name, double ours, double reference) {
    report_.differences.push_back(
        {.name = name,
         .ours = ours,
         .reference = reference,
         .error = std::abs(ours - reference) / std::max(1.0, std::abs(reference)),
         .tolerance = tolerances_.loss});
  }

  // The losses on the way: the backward of the auxiliary one is scaled as the reference's loss is.
  absl::Status ComputeGradients(const Tensor& hidden, AuxiliaryLosses& auxiliary,
                                LanguageModel::Saved& saved) {
    const bool tied = model_.shape().tied_embeddings;
    const int head_unit = sharder_.num_units() - 1;
    PLAIT_RETURN_IF_ERROR(sharder_.ZeroGradients());
    if (tied) PLAIT_RETURN_IF_ERROR(sharder_.PrepareGradients(execution_, 0));
    PLAIT_RETURN_IF_ERROR(sharder_.PrepareGradients(execution_, head_unit));
    Microbatch microbatch = inputs_.microbatch;
    Tensor coefficients = microbatch.token_weight.Clone();
    for (float& value : coefficients.values<float>())
      value = static_cast<float>(-value / inputs_.counts.weight_sum);
    PLAIT_ASSIGN_OR_RETURN(
        const TokenLogProbabilityHead::LossGradient head,
        model_.head().LossAndGradient(execution_, hidden, microbatch.targets, coefficients));
    double loss = 0;
    for (int64_t t = 0; t < microbatch.layout.tokens; ++t) {
      loss -= static_cast<double>(microbatch.token_weight.data<float>()[t]) *
              head.log_probability.data<float>()[t];
    }
    PLAIT_RETURN_IF_ERROR(CompareLosses(loss / inputs_.counts.weight_sum, auxiliary.balance));

    Tensor scaled;  // one for all layers
    for (BlockLossFactors& factors : auxiliary.factors) {
      if (!factors.balance_gradient) continue;
      if (!scaled) {
        scaled = factors.balance_gradient.Clone();
        for (float& value : scaled.values<float>())
          value = static_cast<float>(value * report_.auxiliary_loss_coefficient);
      }
      factors.balance_gradient = scaled;
    }
    if (options_.padding_id.has_value()) {
      // The backward reads tokens in the look-up alone, and passes over negative ones.
      microbatch.tokens = microbatch.tokens.Clone();
      for (int32_t& id : microbatch.tokens.values<int32_t>())
        if (id == *options_.padding_id) id = -1;
    }
    PLAIT_RETURN_IF_ERROR(
        model_.Backward(execution_, sharder_, microbatch, auxiliary, head.dx, saved));
    return sharder_.FinishGradients(execution_);
  }

  absl::Status CompareLosses(double language_model, double auxiliary) {
    PLAIT_ASSIGN_OR_RETURN(const double reference, ReadNumber(file_, "loss"));
    PLAIT_ASSIGN_OR_RETURN(const double reference_auxiliary, ReadNumber(file_, "auxiliary_loss"));
    PLAIT_ASSIGN_OR_RETURN(const std::optional<double> stated,
                           file_.NumberAttribute("auxiliary_loss_coefficient"));
    double& coefficient = report_.auxiliary_loss_coefficient;
    coefficient = stated.value_or(options_.auxiliary_loss_coefficient);
    if (!stated.has_value() && std::abs(language_model - reference) <
                                   std::abs(language_model + coefficient * auxiliary - reference)) {
      coefficient = 0;
    }
    CompareScalar("loss", language_model + coefficient * auxiliary, reference);
    CompareScalar("auxiliary_loss", auxiliary, reference_auxiliary);
    return absl::OkStatus();
  }

  absl::Status CompareGradients() {
    PLAIT_ASSIGN_OR_RETURN(const std::vector<std::string> names, file_.DatasetsIn(kGradients));
    const GradientPlaces places(sharder_.sharded());
    std::map<std::string, int64_t> compared;  // elements, by parameter
    std::vector<double> scales;
    const size_t first = report_.differences.size();
    for (const std::string& name : names) {
      const std::string tensor(absl::StripPrefix(name, absl::StrCat(kGradients, "/")));
      const std::optional<Place> place = places.Find(tensor);
      if (!place.has_value()) {
        return absl::InvalidArgumentError(
            absl::StrCat(file_.path(), ": ", name, ": the model has no such parameter"));
      }
      PLAIT_ASSIGN_OR_RETURN(const Shape found, file_.ShapeOf(name));
      if (!(found == place->shape))
        return WrongShape(file_, name, found, place->shape.ToString() + " of the model");
      PLAIT_ASSIGN_OR_RETURN(const Tensor reference, file_.Read(name, DType::kF32));
      scales.push_back(LargestOf(reference));
      report_.differences.push_back(WorstOf(name,
                                            place->parameter->gradient.data<float>() + place->begin,
                                            reference.data<float>(), place->shape));
      compared[place->parameter->name] += place->shape.num_elements();
    }
    const double largest = scales.empty() ? 0 : *std::max_element(scales.begin(), scales.end());
    for (size_t i = 0; i < scales.size(); ++i) {
      ParityDifference& difference = report_.differences[first + i];
      const double scale = std::max(scales[i], kSmallestGradientScale * largest);
      if (difference.error != 0) difference.error /= scale;
      difference.tolerance = tolerances_.gradients;
    }
    for (const ShardedParameter& parameter : sharder_.sharded()) {
      if (compared[parameter.name] < parameter.spec.logical_shape.num_elements())
        report_.without_gradient.push_back(parameter.name);
    }
    return absl::OkStatus();
  }

  // Whether the row of `greedy` ends at `token`: an end id that nothing but padding follows.
  bool EndsAt(std::span<const int64_t> row, size_t at) const {
    const std::vector<int64_t>& ends = options_.end_ids;
    if (std::find(ends.begin(), ends.end(), row[at]) == ends.end()) return false;
    const int64_t padding = options_.padding_id.value_or(row[at]);
    return std::all_of(row.begin() + static_cast<int64_t>(at) + 1, row.end(),
                       [padding](int64_t token) { return token == padding; });
  }

  absl::Status CompareGreedy() {
    PLAIT_ASSIGN_OR_RETURN(const Tensor reference, file_.Read("greedy", DType::kI64));
    const Shape& shape = reference.shape();
    if (shape.rank() != 2 || shape[0] != inputs_.rows)
      return WrongShape(file_, "greedy", shape, absl::StrCat("[", inputs_.rows, ", new tokens]"));
    ParityDifference worst{.name = "greedy", .error = -1, .tolerance = 2 * tolerances_.logits};
    for (int64_t row = 0; row < inputs_.rows; ++row) {
      const std::span<const int64_t> wanted(reference.data<int64_t>() + row * shape[1], shape[1]);
      DecodingSession session(execution_, model_, sharder_, inputs_.tokens + shape[1]);
      std::vector<int32_t> next(inputs_.ids.begin() + row * inputs_.tokens,
                                inputs_.ids.begin() + (row + 1) * inputs_.tokens);
      for (size_t n = 0; n < wanted.size(); ++n) {
        if (wanted[n] < 0 || wanted[n] >= model_.shape().vocabulary) {
          return absl::InvalidArgumentError(absl::StrCat(file_.path(), ": greedy: token ",
                                                         wanted[n], " is outside the model's ",
                                                         model_.shape().vocabulary));
        }
        PLAIT_ASSIGN_OR_RETURN(const Tensor logits, session.Append(next));
        const std::span<const float> values = logits.values<float>();
        const auto best = std::max_element(values.begin(), values.end());
        const double error = static_cast<double>(*best) - values[wanted[n]];
        if (!std::isnan(worst.error) && !(error <= worst.error)) {
          worst.index = {row, static_cast<int64_t>(n)};
          worst.ours = static_cast<double>(best - values.begin());
          worst.reference = static_cast<double>(wanted[n]);
          worst.error = error;
        }
        if (EndsAt(wanted, n)) break;
        next = {static_cast<int32_t>(wanted[n])};
      }
    }
    worst.error = std::isnan(worst.error) ? worst.error : std::max(worst.error, 0.0);
    report_.differences.push_back(std::move(worst));
    return absl::OkStatus();
  }

  Execution& execution_;
  LanguageModel& model_;
  ParameterSharder& sharder_;
  const ForeignHdf5File& file_;
  const ParityOptions& options_;
  ParityTolerances tolerances_;
  const Inputs inputs_;
  ParityReport report_;
};

}  // namespace

bool ParityReport::passed() const {
  return std::all_of(differences.begin(), differences.end(),
                     [](const ParityDifference& difference) { return difference.passed(); });
}

recipe::v1::Recipe ParityRecipe(recipe::v1::Recipe recipe) {
  recipe.mutable_trainer()->set_precision(recipe::v1::Trainer::F32);
  recipe.mutable_trainer()->clear_recomputation();
  recipe::v1::Model& model = *recipe.mutable_model();
  model.mutable_activation_loss()->set_coefficient(0);
  if (model.has_experts()) {
    model.mutable_experts()->set_balance_loss_coefficient(1);
    model.mutable_experts()->set_z_loss_coefficient(0);
  }
  return recipe;
}

absl::StatusOr<ParityReport> CompareWithReference(Execution& execution, ModelRuntime& runtime,
                                                  const ForeignHdf5File& reference,
                                                  const ParityOptions& options) {
  PLAIT_ASSIGN_OR_RETURN(const ParityTolerances tolerances, TolerancesOf(reference, options));
  PLAIT_ASSIGN_OR_RETURN(Inputs inputs, ReadInputs(reference, runtime.model->shape().vocabulary));
  return Comparison(execution, runtime, reference, options, tolerances, std::move(inputs)).Run();
}

}  // namespace plait
