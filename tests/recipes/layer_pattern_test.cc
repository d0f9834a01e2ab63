#include "recipes/layer_pattern.h"

#include "recipes/schema/model.pb.h"
#include "tests/support/status_matchers.h"

namespace plait {
namespace {

using recipe::v1::Model;
using ::testing::HasSubstr;

std::string RoundTrip(const std::string& pattern) {
  const auto layers = ParseLayerPattern(pattern);
  return layers.ok() ? ShortestPattern(*layers) : std::string(layers.status().message());
}

Model JambaSchedule(int64_t layers) {
  Model model;
  model.set_family(Model::JAMBA);
  model.set_layers(layers);
  model.mutable_experts()->set_experts(16);
  model.mutable_schedule()->set_attention_layer_period(8);
  model.mutable_schedule()->set_attention_layer_offset(4);
  model.mutable_schedule()->set_expert_layer_period(2);
  model.mutable_schedule()->set_expert_layer_offset(1);
  return model;
}

TEST(LayerPatternTest, LettersNameMixerAndFeedForward) {
  ASSERT_OK_AND_ASSIGN(const auto layers, ParseLayerPattern("Md Ae"));
  ASSERT_EQ(layers.size(), 2u);
  EXPECT_EQ(layers[0], (LayerKind{MixerKind::kMamba1, FeedForwardKind::kDense}));
  EXPECT_EQ(layers[1], (LayerKind{MixerKind::kAttention, FeedForwardKind::kExperts}));
}

TEST(LayerPatternTest, CountsRepeatLayersAndParentheses) {
  ASSERT_OK_AND_ASSIGN(const auto layers, ParseLayerPattern(" 2 * ( Md 2*Ae ) 3*Ad"));
  ASSERT_OK_AND_ASSIGN(const auto written, ParseLayerPattern("MdAeAeMdAeAeAdAdAd"));
  EXPECT_EQ(layers, written);
}

TEST(LayerPatternTest, ScheduleOfThePublishedModels) {
  ASSERT_OK_AND_ASSIGN(const auto mini, LayersOf(JambaSchedule(32)));
  EXPECT_EQ(ShortestPattern(mini), "4*(MdMeMdMeAdMeMdMe)");
  ASSERT_OK_AND_ASSIGN(const auto large, LayersOf(JambaSchedule(72)));
  EXPECT_EQ(ShortestPattern(large), "9*(MdMeMdMeAdMeMdMe)");
}

TEST(LayerPatternTest, ScheduleWithOneExpertIsDense) {
  Model model = JambaSchedule(8);
  model.mutable_experts()->set_experts(1);
  ASSERT_OK_AND_ASSIGN(const auto layers, LayersOf(model));
  for (const LayerKind& layer : layers) EXPECT_EQ(layer.feed_forward, FeedForwardKind::kDense);
}

TEST(LayerPatternTest, LlamaIsAttentionAndDenseEverywhere) {
  Model model;
  model.set_family(Model::LLAMA);
  model.set_layers(32);
  ASSERT_OK_AND_ASSIGN(const auto layers, LayersOf(model));
  EXPECT_EQ(ShortestPattern(layers), "32*Ad");
}

TEST(LayerPatternTest, ShortestStringIsNoLongerThanAnyOther) {
  EXPECT_EQ(RoundTrip("Md"), "Md");
  EXPECT_EQ(RoundTrip("MdMd"), "MdMd");  // as long as 2*Md, without a repetition
  EXPECT_EQ(RoundTrip("MdMdMd"), "3*Md");
  EXPECT_EQ(RoundTrip("MdMeAdMe MdMeAdMe"), "2*(MdMeAdMe)");
  EXPECT_EQ(RoundTrip("AeMdMdMdMdMd"), "Ae5*Md");
  EXPECT_EQ(RoundTrip("4*(4*MdAe) Ad"), "4*(4*MdAe)Ad");
}

TEST(LayerPatternTest, EveryShortPatternReadsBackAsItself) {
  // All 4^5 sequences of five layers.
  for (int code = 0; code < 1024; ++code) {
    std::vector<LayerKind> layers;
    for (int i = 0, rest = code; i < 5; ++i, rest /= 4) {
      layers.push_back({rest % 2 ? MixerKind::kAttention : MixerKind::kMamba1,
                        rest / 2 % 2 ? FeedForwardKind::kDense : FeedForwardKind::kExperts});
    }
    ASSERT_OK_AND_ASSIGN(const auto back, ParseLayerPattern(ShortestPattern(layers)));
    ASSERT_EQ(back, layers) << ShortestPattern(layers);
  }
}

TEST(LayerPatternTest, LongPatternsReadBackAsThemselves) {
  EXPECT_EQ(RoundTrip("1024*Md"), "1024*Md");
  EXPECT_EQ(RoundTrip("104*(MdMeMdMeAdMeMdMe)MdMe"), "104*(MdMeMdMeAdMeMdMe)MdMe");
  std::vector<LayerKind> layers;
  for (uint32_t i = 0, random = 1; i < 1000; ++i, random = random * 1664525 + 1013904223) {
    layers.push_back({random >> 30 & 1 ? MixerKind::kAttention : MixerKind::kMamba1,
                      random >> 29 & 1 ? FeedForwardKind::kDense : FeedForwardKind::kExperts});
  }
  ASSERT_OK_AND_ASSIGN(const auto back, ParseLayerPattern(ShortestPattern(layers)));
  EXPECT_EQ(back, layers);
}

TEST(LayerPatternTest, ErrorsNameTheColumn) {
  EXPECT_EQ(RoundTrip(""),
            "column 1: expected at least one layer (Md, Me, Ad or Ae), found the end");
  EXPECT_EQ(RoundTrip("MdX"), "column 3: expected a mixer, M (Mamba) or A (attention), found 'X'");
  EXPECT_EQ(RoundTrip("MdM"),
            "column 4: expected a feed-forward, d (dense) or e (experts), found the end");
  EXPECT_EQ(RoundTrip("2(Md)"), "column 2: expected '*' after the count, found '('");
  EXPECT_EQ(RoundTrip("2*(Md"), "column 6: expected ')', found the end");
  EXPECT_EQ(RoundTrip("Md)"),
            "column 3: expected a layer (Md, Me, Ad or Ae) or a count, found ')'");
  EXPECT_EQ(RoundTrip("0*Md"), "column 2: expected a count of at least 1, found '*'");
}

TEST(LayerPatternTest, RefusesMoreLayersThanTheLimitBeforeMakingThem) {
  EXPECT_THAT(RoundTrip("99999999999999999999*Md"), HasSubstr("at most 1024 layers"));
  EXPECT_THAT(RoundTrip("1000*(1000*(1000*Md))"), HasSubstr("at most 1024 layers"));
  EXPECT_THAT(RoundTrip(std::string(1000, '(')), HasSubstr("expected a mixer"));
  std::string nested;
  for (int i = 0; i < 100; ++i) nested += "1*(";
  EXPECT_THAT(RoundTrip(nested), HasSubstr("expected fewer parentheses"));
}

TEST(LayerPatternTest, ManyLayersAreShortenedInReasonableTime) {
  EXPECT_EQ(RoundTrip("1024*Ad"), "1024*Ad");
}

TEST(LayerPatternTest, ModelsWithoutLayersAreRefused) {
  Model model;
  EXPECT_THAT(LayersOf(model), StatusIs(absl::StatusCode::kInvalidArgument,
                                        HasSubstr("model.layers: expected 1 to 1024, got 0")));
  model.set_layers(3);
  model.set_pattern("MdMd");
  EXPECT_THAT(LayersOf(model), StatusIs(absl::StatusCode::kInvalidArgument,
                                        HasSubstr("expected model.layers = 3 layers, got 2")));
}

}  // namespace
}  // namespace plait
