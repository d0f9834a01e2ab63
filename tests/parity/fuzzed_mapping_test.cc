// Weights put in the wrong place, and configurations misread: parity sees each of them.
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <numeric>

#include "tests/support/parity_fixture.h"

namespace plait {
namespace {

// The tensor's rows in another order: row i of the result is row source(i).
Tensor WithRows(const Tensor& tensor, const std::function<int64_t(int64_t)>& source) {
  Tensor result = tensor.Clone();
  const int64_t rows = tensor.shape()[0], width = tensor.num_elements() / rows;
  for (int64_t row = 0; row < rows; ++row) {
    std::copy_n(tensor.data<float>() + source(row) * width, width,
                result.data<float>() + row * width);
  }
  return result;
}

// The values of the transpose under the shape of the tensor: what a reader of the other order sees.
Tensor Transposed(const Tensor& tensor) {
  Tensor result = tensor.Clone();
  const int64_t rows = tensor.shape()[0], columns = tensor.num_elements() / rows;
  for (int64_t i = 0; i < tensor.num_elements(); ++i)
    result.data<float>()[i] = tensor.data<float>()[(i % rows) * columns + i / rows];
  return result;
}

Tensor Zeroed(const Tensor& tensor) {
  Tensor result = tensor.Clone();
  result.FillZero();
  return result;
}

// The order in which rows [a, a + rows) and [b, b + rows) have changed places.
std::function<int64_t(int64_t)> Exchanging(int64_t a, int64_t b, int64_t rows) {
  return [=](int64_t row) {
    if (row >= a && row < a + rows) return row - a + b;
    if (row >= b && row < b + rows) return row - b + a;
    return row;
  };
}

struct Mistake {
  const char* name;
  const char* fixture;
  std::function<void(ParityFixture&)> make;
  bool logits_differ = true;
};

void PrintTo(const Mistake& mistake, std::ostream* out) { *out << mistake.name; }

void Exchange(ParityFixture& fixture, const std::string& a, const std::string& b) {
  std::swap(fixture.tensors.at(a), fixture.tensors.at(b));
}

template <class Change>
void ChangeAll(ParityFixture& fixture, const std::string& suffix, Change change) {
  int changed = 0;
  for (auto& [name, tensor] : fixture.tensors) {
    if (!name.ends_with(suffix)) continue;
    tensor = change(tensor);
    ++changed;
  }
  EXPECT_GT(changed, 0) << suffix;
}

void SetEpsilon(ParityFixture& fixture, double factor) {
  recipe::v1::Model& model = *fixture.recipe.mutable_model();
  model.set_rms_norm_epsilon(model.rms_norm_epsilon() * factor);
}

// tiny_jamba: layers 0, 1, 3 and 4 are Mamba, 2 is attention; 1 and 3 have 4 experts. 48 channels,
// state 7, dt_rank 2.
const std::string kMamba = "model.layers.0.mamba.";
const std::string kExperts = "model.layers.1.feed_forward.experts.";

std::vector<Mistake> Mistakes() {
  std::vector<Mistake> mistakes;
  const auto jamba = [&mistakes](const char* name, std::function<void(ParityFixture&)> make) {
    mistakes.push_back({name, "tiny_jamba", std::move(make)});
  };
  const auto llama = [&mistakes](const char* name, std::function<void(ParityFixture&)> make) {
    mistakes.push_back({name, "tiny_llama", std::move(make)});
  };
  jamba("GateBeforeInput", [](ParityFixture& f) {
    Tensor& weight = f.tensors.at(kMamba + "in_proj.weight");
    weight = WithRows(weight, Exchanging(0, 48, 48));
  });
  jamba("CBeforeB", [](ParityFixture& f) {
    Tensor& weight = f.tensors.at(kMamba + "x_proj.weight");
    weight = WithRows(weight, Exchanging(2, 9, 7));
  });
  jamba("DtAfterBAndC", [](ParityFixture& f) {
    Tensor& weight = f.tensors.at(kMamba + "x_proj.weight");
    weight = WithRows(weight, [](int64_t row) { return (row + 2) % 16; });
  });
  jamba("ConvolutionReversed", [](ParityFixture& f) {
    ChangeAll(f, "conv1d.weight", [](const Tensor& tensor) {
      Tensor reversed = tensor.Clone();
      for (int64_t channel = 0; channel < tensor.shape()[0]; ++channel)
        std::reverse(reversed.data<float>() + 4 * channel,
                     reversed.data<float>() + 4 * channel + 4);
      return reversed;
    });
  });
  jamba("NoConvolutionBias", [](ParityFixture& f) { ChangeAll(f, "conv1d.bias", Zeroed); });
  jamba("NoDtBias", [](ParityFixture& f) { ChangeAll(f, "dt_proj.bias", Zeroed); });
  // The scan multiplies B and C element by element, so that only the product of their norms'
  // weights is in the logits: the gradients alone tell.
  jamba("InnerNormsOfBAndCExchanged", [](ParityFixture& f) {
    Exchange(f, kMamba + "b_layernorm.weight", kMamba + "c_layernorm.weight");
  });
  mistakes.back().logits_differ = false;
  jamba("InnerNormsOfOnes", [](ParityFixture& f) {
    for (const char* part : {"b_layernorm.weight", "c_layernorm.weight", "dt_layernorm.weight"}) {
      ChangeAll(f, part, [](const Tensor& tensor) {
        Tensor ones = tensor.Clone();
        std::fill_n(ones.data<float>(), ones.num_elements(), 1.0f);
        return ones;
      });
    }
  });
  jamba("DtNormExchanged", [](ParityFixture& f) {
    Exchange(f, kMamba + "dt_layernorm.weight", "model.layers.1.mamba.dt_layernorm.weight");
  });
  jamba("ALogTransposed", [](ParityFixture& f) {
    f.tensors.at(kMamba + "A_log") = Transposed(f.tensors.at(kMamba + "A_log"));
  });
  jamba("SkipExchangedWithDtBias",
        [](ParityFixture& f) { Exchange(f, kMamba + "D", kMamba + "dt_proj.bias"); });
  jamba("InProjectionTransposed", [](ParityFixture& f) {
    f.tensors.at(kMamba + "in_proj.weight") = Transposed(f.tensors.at(kMamba + "in_proj.weight"));
  });
  jamba("ExpertGateAndUpExchanged", [](ParityFixture& f) {
    for (int e = 0; e < 4; ++e) {
      const std::string expert = kExperts + std::to_string(e);
      Exchange(f, expert + ".gate_proj.weight", expert + ".up_proj.weight");
    }
  });
  jamba("OneExpertsGateAndUpExchanged", [](ParityFixture& f) {
    Exchange(f, kExperts + "3.gate_proj.weight", kExperts + "3.up_proj.weight");
  });
  jamba("ExpertsInAnotherOrder", [](ParityFixture& f) {
    for (const char* part : {".gate_proj.weight", ".up_proj.weight", ".down_proj.weight"})
      Exchange(f, kExperts + "1" + part, kExperts + "2" + part);
  });
  jamba("ExpertDownTransposed", [](ParityFixture& f) {
    Tensor& weight = f.tensors.at(kExperts + "0.down_proj.weight");
    weight = Transposed(weight);
  });
  jamba("ExpertOfAnotherLayer", [](ParityFixture& f) {
    Exchange(f, kExperts + "0.up_proj.weight",
             "model.layers.3.feed_forward.experts.0.up_proj.weight");
  });
  jamba("RoutersOfTwoLayersExchanged", [](ParityFixture& f) {
    Exchange(f, "model.layers.1.feed_forward.router.weight",
             "model.layers.3.feed_forward.router.weight");
  });
  jamba("DenseGateAndUpExchanged", [](ParityFixture& f) {
    Exchange(f, "model.layers.0.feed_forward.gate_proj.weight",
             "model.layers.0.feed_forward.up_proj.weight");
  });
  jamba("NormsOfALayerExchanged", [](ParityFixture& f) {
    Exchange(f, "model.layers.2.input_layernorm.weight", "model.layers.2.pre_ff_layernorm.weight");
  });
  jamba("KeysAndValuesExchanged", [](ParityFixture& f) {
    Exchange(f, "model.layers.2.self_attn.k_proj.weight", "model.layers.2.self_attn.v_proj.weight");
  });
  jamba("QueriesTransposed", [](ParityFixture& f) {
    Tensor& weight = f.tensors.at("model.layers.2.self_attn.q_proj.weight");
    weight = Transposed(weight);
  });
  // Query heads 0 ... 3 read key-value heads 0 0 1 1; tiled 0 1 0 1. Their outputs change places
  // too.
  jamba("KeyValueHeadsTiled", [](ParityFixture& f) {
    Tensor& weight = f.tensors.at("model.layers.2.self_attn.q_proj.weight");
    weight = WithRows(weight, Exchanging(6, 12, 6));
  });
  jamba("HeadAndEmbeddingExchanged",
        [](ParityFixture& f) { Exchange(f, "lm_head.weight", "model.embed_tokens.weight"); });
  jamba("HeadTiedToEmbedding", [](ParityFixture& f) {
    f.tensors.at("lm_head.weight") = f.tensors.at("model.embed_tokens.weight");
  });
  jamba("OneTensorRoundedToBf16", [](ParityFixture& f) {
    Tensor& weight = f.tensors.at(kMamba + "out_proj.weight");
    weight = weight.Converted(DType::kBf16).Converted(DType::kF32);
  });
  jamba("EpsilonTenTimesTooLarge", [](ParityFixture& f) { SetEpsilon(f, 10); });
  jamba("RotaryEmbeddingInJamba", [](ParityFixture& f) {
    f.recipe.mutable_model()->mutable_attention()->mutable_rotary_embedding()->set_theta(10000);
  });
  jamba("OneMoreExpertPerToken", [](ParityFixture& f) {
    f.recipe.mutable_model()->mutable_experts()->set_experts_per_token(3);
  });
  // As Meta's files pair them: rows 2j and 2j + 1 of a head, instead of j and j + 2.
  llama("RotaryPairsInterleaved", [](ParityFixture& f) {
    for (const char* part : {"q_proj.weight", "k_proj.weight"}) {
      ChangeAll(f, part, [](const Tensor& tensor) {
        return WithRows(tensor, [](int64_t row) {
          const int64_t place[] = {0, 2, 1, 3};
          return row / 4 * 4 + place[row % 4];
        });
      });
    }
  });
  llama("NoRotaryEmbedding", [](ParityFixture& f) {
    f.recipe.mutable_model()->mutable_attention()->clear_rotary_embedding();
  });
  llama("AnotherTheta", [](ParityFixture& f) {
    f.recipe.mutable_model()->mutable_attention()->mutable_rotary_embedding()->set_theta(9000);
  });
  llama("KeyValueHeadsTiled", [](ParityFixture& f) {
    ChangeAll(f, "q_proj.weight", [](const Tensor& tensor) {
      // 0 0 0 1 1 1; tiled 0 1 0 1 0 1.
      const int64_t head[] = {0, 3, 1, 4, 2, 5};
      return WithRows(tensor, [&head](int64_t row) { return head[row / 4] * 4 + row % 4; });
    });
  });
  llama("EpsilonTenTimesTooLarge", [](ParityFixture& f) { SetEpsilon(f, 10); });
  llama("GateAndUpExchanged", [](ParityFixture& f) {
    Exchange(f, "model.layers.1.mlp.gate_proj.weight", "model.layers.1.mlp.up_proj.weight");
  });
  llama("LayersExchanged", [](ParityFixture& f) {
    for (auto& [name, tensor] : f.tensors) {
      if (!name.starts_with("model.layers.0.")) continue;
      std::swap(tensor, f.tensors.at("model.layers.1." + name.substr(15)));
    }
  });
  return mistakes;
}

class FuzzedMappingTest : public ::testing::TestWithParam<Mistake> {};
INSTANTIATE_TEST_SUITE_P(Mistakes, FuzzedMappingTest, ::testing::ValuesIn(Mistakes()),
                         [](const auto& mistake) {
                           return std::string(mistake.param.fixture) + "_" + mistake.param.name;
                         });

TEST_P(FuzzedMappingTest, IsCaughtByLogitsAndGradients) {
  ParityFixture fixture(GetParam().fixture);
  GetParam().make(fixture);
  ASSERT_OK_AND_ASSIGN(const ParityReport report, CompareFixture(fixture));
  EXPECT_FALSE(report.passed());
  double logits = 0, loss = 0, gradients = 0;
  for (const ParityDifference& difference : report.differences) {
    if (difference.name == "logits") logits = difference.error;
    if (difference.name == "loss") loss = difference.error;
    if (difference.name.starts_with("gradients/"))
      gradients = std::max(gradients, difference.error);
  }
  EXPECT_EQ(logits > 1e-4, GetParam().logits_differ);
  EXPECT_GT(gradients, 1e-4);
  std::printf("%-34s logits %.1e  loss %.1e  gradients %.1e\n", GetParam().name, logits, loss,
              gradients);
}

}  // namespace
}  // namespace plait
