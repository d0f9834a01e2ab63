// A small checkpoint's content, the same on every machine.
#pragma once

#include <string>

#include "checkpoint/checkpoint_writer.h"
#include "tests/support/random_tensor.h"

namespace plait {

inline NamedTensor SmallTensor(const std::string& name, const Shape& shape, uint64_t seed,
                               DType dtype) {
  const Tensor values = UniformTensor({shape.num_elements()}, seed, dtype);
  return {name, values, ShardSpec::Whole(shape)};
}

inline CheckpointContent SmallContent(int64_t step, uint64_t seed = 1) {
  CheckpointContent content;
  content.description = {.step = step,
                         .stage = 1,
                         .recipe_text = "name: \"small\"\nseed: 1\n",
                         .recipe_digest = "recipe",
                         .model_digest = "model",
                         .tokenizer_digest = "tokenizer"};
  content.state.tensors = {
      SmallTensor("parameters/model.embed_tokens.weight", {40, 32}, seed, DType::kF32),
      SmallTensor("parameters/model.norm.weight", {32}, seed + 1, DType::kF32),
      SmallTensor("adamw.first_moment/model.norm.weight", {32}, seed + 2, DType::kF64),
      SmallTensor("parameters/model.layers.0.mamba.A_log", {4, 3}, seed + 3, DType::kBf16)};
  content.state.integers = {{"adamw.steps", step}, {"trainer.tokens", 7 * step}};
  content.state.texts = {{"note", "two\nlines, \"quoted\" and \xC3\xA9"}};
  content.attachments = {{"tokenizer.model", std::string("a\0b", 3)}};
  return content;
}

// The same tensors and scalars with other values.
inline NamedState BlankOf(const NamedState& state) {
  NamedState blank;
  for (const NamedTensor& tensor : state.tensors) {
    blank.tensors.push_back(
        {tensor.name, Tensor::OnHost(tensor.shard.dtype(), tensor.shard.shape()), tensor.spec});
  }
  for (const auto& [name, value] : state.integers) blank.integers[name] = -1;
  for (const auto& [name, value] : state.texts) blank.texts[name] = "";
  return blank;
}

}  // namespace plait
