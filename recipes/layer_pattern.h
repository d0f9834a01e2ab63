// Which mixer and which feed-forward each layer of a model has.
//   schedule: layer i has attention iff i % attention_period == attention_offset, else Mamba;
//   experts iff
//             i % expert_period == expert_offset and there are at least two, else a dense
//             feed-forward
//   pattern:  sequence = item*;  item = layer | count "*" layer | count "*" "(" sequence ")"
//             layer = ("M" | "A") ("d" | "e"): "MdMe", "4*(MdMeMdMeAdMeMdMe)", "32*Ad"; spaces are
//             free
// Source: Jamba's configuration ("Jamba: A Hybrid Transformer-Mamba Language Model", 2024).
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace plait {

namespace recipe::v1 {
class Model;
}

enum class MixerKind { kAttention, kMamba1 };
enum class FeedForwardKind { kDense, kExperts };

struct LayerKind {
  MixerKind mixer = MixerKind::kAttention;
  FeedForwardKind feed_forward = FeedForwardKind::kDense;

  friend bool operator==(const LayerKind&, const LayerKind&) = default;
};

inline constexpr int64_t kMaxLayers = 1024;

// InvalidArgument, with the column (from 1) of the first character that does not fit.
absl::StatusOr<std::vector<LayerKind>> ParseLayerPattern(const std::string& pattern);

// The layers of a model, of either family. InvalidArgument where schedule, pattern and layer count
// do not describe them; a validated recipe's do.
absl::StatusOr<std::vector<LayerKind>> LayersOf(const recipe::v1::Model& model);

// The shortest pattern string of at most kMaxLayers layers; of equally short ones, the one with the
// fewest repetitions. Past 256 layers a short one: the shortest of what repeats from the first
// layer to the last, else of each 256 layers.
std::string ShortestPattern(std::span<const LayerKind> layers);

}  // namespace plait
