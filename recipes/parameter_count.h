// Every logical parameter of a model by its Hugging Face name, and what they add up to.
//   active per token        = all parameters outside experts + experts_per_token / experts of those
//   inside matmul active per token = the matrices a token is multiplied by: projections, router,
//   its experts and the head; not the
//                             embedding look-up (a tied embedding counts once, as the head),
//                             convolution, A_log, D, norms
//   model FLOPs per token   = 6 x matmul active + attention at half (causal): 6 x row_tokens x
//   heads x head_dim per
//                             attention layer; no recomputation, no scan
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "base/shape.h"

namespace plait {

namespace recipe::v1 {
class Model;
}

enum class ParameterRole {
  kEmbedding,     // looked up; also the head where tied
  kMatmul,        // every token is multiplied by it
  kExpertMatmul,  // fused over experts: a token is multiplied by experts_per_token of them
  kOther,         // norms, biases, convolution, A_log, D
};

struct LogicalParameter {
  std::string name;
  Shape shape;
  ParameterRole role = ParameterRole::kOther;
  // Half layers counted from 0; -1: the embedding; one past the last: final norm and head.
  int64_t block = -1;

  // Elements that a token is multiplied by; 0 where the role is no matmul's. experts_per_token: of
  // the model. A tied embedding counts as no matmul here: the head has no parameter of its own.
  int64_t MatmulElementsPerToken(int64_t experts_per_token) const;
};

// In the order of the forward pass. Names and shapes are the checkpoint's; experts are fused:
// "...experts.gate_up_proj" [experts, 2 x hidden, model] and "...experts.down_proj" [experts,
// model, hidden]. Defaults need not be filled in. InvalidArgument where the layers are not
// described; a validated recipe's are.
absl::StatusOr<std::vector<LogicalParameter>> LogicalParameters(const recipe::v1::Model& model);

struct ParameterCount {
  int64_t total = 0;
  int64_t in_experts = 0;
  int64_t active_per_token = 0;
  int64_t matmul_active_per_token = 0;

  int64_t attention_layers = 0;
  int64_t mamba_layers = 0;
  int64_t expert_layers = 0;
  int64_t dense_layers = 0;
  int64_t kv_elements_per_token = 0;  // keys and values that generation caches per token
  int64_t attention_width = 0;        // heads x head_dim
};

absl::StatusOr<ParameterCount> CountParameters(const recipe::v1::Model& model);

// Forward and backward, for one token in rows of row_tokens.
double ModelFlopsPerToken(const ParameterCount& count, int64_t row_tokens);

}  // namespace plait
