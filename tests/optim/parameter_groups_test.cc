#include "optim/parameter_groups.h"

#include <map>
#include <set>

#include "absl/strings/str_split.h"
#include "recipes/parameter_count.h"
#include "recipes/recipe_loader.h"
#include "tests/support/status_matchers.h"

namespace plait {
namespace {

// Names without "model.layers.<i>." and the module in front.
std::map<bool, std::set<std::string>> Groups(recipe::v1::Model model) {
  std::map<bool, std::set<std::string>> groups;
  const auto parameters = LogicalParameters(model);
  EXPECT_OK(parameters);
  for (const LogicalParameter& parameter : *parameters) {
    std::vector<std::string> parts = absl::StrSplit(parameter.name, '.');
    std::string name = parts.back();
    for (size_t i = parts.size() - 1;
         i-- > 0 && parts[i] != "mamba" && parts[i] != "self_attn" && parts[i] != "feed_forward" &&
         parts[i] != "mlp" && parts[i] != "model" &&
         parts[i].find_first_not_of("0123456789") != std::string::npos;) {
      name = parts[i] + "." + name;
    }
    groups[HasWeightDecay(parameter.name)].insert(name);
  }
  return groups;
}

TEST(ParameterGroupsTest, EveryJambaParameterIsInItsGroup) {
  auto recipe = LoadRecipe("recipes/library/jamba_1_5_mini.textproto");
  ASSERT_OK(recipe);
  recipe->mutable_model()->mutable_mamba()->set_projection_bias(true);
  auto groups = Groups(recipe->model());
  EXPECT_EQ(groups[true], (std::set<std::string>{
                              "embed_tokens.weight", "lm_head.weight", "q_proj.weight",
                              "k_proj.weight", "v_proj.weight", "o_proj.weight", "in_proj.weight",
                              "conv1d.weight", "x_proj.weight", "dt_proj.weight", "out_proj.weight",
                              "gate_proj.weight", "up_proj.weight", "down_proj.weight",
                              "router.weight", "experts.gate_up_proj", "experts.down_proj"}));
  EXPECT_EQ(groups[false],
            (std::set<std::string>{"input_layernorm.weight", "pre_ff_layernorm.weight",
                                   "final_layernorm.weight", "dt_layernorm.weight",
                                   "b_layernorm.weight", "c_layernorm.weight", "in_proj.bias",
                                   "conv1d.bias", "dt_proj.bias", "out_proj.bias", "A_log", "D"}));
}

TEST(ParameterGroupsTest, EveryLlamaParameterIsInItsGroup) {
  auto recipe = LoadRecipe("recipes/library/llama_2_7b.textproto");
  ASSERT_OK(recipe);
  auto groups = Groups(recipe->model());
  EXPECT_EQ(groups[true],
            (std::set<std::string>{"embed_tokens.weight", "lm_head.weight", "q_proj.weight",
                                   "k_proj.weight", "v_proj.weight", "o_proj.weight",
                                   "gate_proj.weight", "up_proj.weight", "down_proj.weight"}));
  EXPECT_EQ(groups[false],
            (std::set<std::string>{"input_layernorm.weight", "post_attention_layernorm.weight",
                                   "norm.weight"}));
}

}  // namespace
}  // namespace plait
