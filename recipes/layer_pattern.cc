#include "recipes/layer_pattern.h"

#include <algorithm>
#include <string>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "recipes/schema/model.pb.h"

namespace plait {
namespace {

constexpr int kMaxNesting = 16;
constexpr size_t kMaxShortened = 256;  // layers; the time to shorten grows with their cube

class PatternParser {
 public:
  explicit PatternParser(const std::string& text) : text_(text) {}

  absl::StatusOr<std::vector<LayerKind>> Parse() {
    PLAIT_ASSIGN_OR_RETURN(std::vector<LayerKind> layers, Sequence(/*nesting=*/0));
    if (position_ < text_.size()) return Error("expected a layer (Md, Me, Ad or Ae) or a count");
    if (layers.empty()) return Error("expected at least one layer (Md, Me, Ad or Ae)");
    return layers;
  }

 private:
  absl::StatusOr<std::vector<LayerKind>> Sequence(int nesting) {
    std::vector<LayerKind> layers;
    for (SkipSpace(); position_ < text_.size() && text_[position_] != ')'; SkipSpace()) {
      PLAIT_ASSIGN_OR_RETURN(const std::vector<LayerKind> item, Item(nesting));
      if (static_cast<int64_t>(layers.size() + item.size()) > kMaxLayers) return TooMany();
      layers.insert(layers.end(), item.begin(), item.end());
    }
    return layers;
  }

  absl::StatusOr<std::vector<LayerKind>> Item(int nesting) {
    if (!IsDigit()) return Layer();
    int64_t count = 0;
    for (; IsDigit(); ++position_) {
      count = count * 10 + (text_[position_] - '0');
      if (count > kMaxLayers) return TooMany();
    }
    if (count == 0) return Error("expected a count of at least 1");
    SkipSpace();
    if (!Take('*')) return Error("expected '*' after the count");
    SkipSpace();
    std::vector<LayerKind> once;
    if (Take('(')) {
      if (nesting == kMaxNesting) return Error("expected fewer parentheses inside one another");
      PLAIT_ASSIGN_OR_RETURN(once, Sequence(nesting + 1));
      if (!Take(')')) return Error("expected ')'");
    } else {
      PLAIT_ASSIGN_OR_RETURN(once, Layer());
    }
    if (static_cast<int64_t>(once.size()) * count > kMaxLayers) return TooMany();
    std::vector<LayerKind> layers;
    for (int64_t i = 0; i < count; ++i) layers.insert(layers.end(), once.begin(), once.end());
    return layers;
  }

  absl::StatusOr<std::vector<LayerKind>> Layer() {
    LayerKind layer;
    if (Take('A')) {
      layer.mixer = MixerKind::kAttention;
    } else if (Take('M')) {
      layer.mixer = MixerKind::kMamba1;
    } else {
      return Error("expected a mixer, M (Mamba) or A (attention)");
    }
    SkipSpace();
    if (Take('d')) {
      layer.feed_forward = FeedForwardKind::kDense;
    } else if (Take('e')) {
      layer.feed_forward = FeedForwardKind::kExperts;
    } else {
      return Error("expected a feed-forward, d (dense) or e (experts)");
    }
    return std::vector<LayerKind>{layer};
  }

  bool IsDigit() const {
    return position_ < text_.size() && text_[position_] >= '0' && text_[position_] <= '9';
  }
  void SkipSpace() {
    while (position_ < text_.size() &&
           (text_[position_] == ' ' || text_[position_] == '\t' || text_[position_] == '\n')) {
      ++position_;
    }
  }
  bool Take(char character) {
    if (position_ >= text_.size() || text_[position_] != character) return false;
    ++position_;
    return true;
  }
  absl::Status Error(const std::string& expected) const {
    const std::string found =
        position_ < text_.size() ? absl::StrCat("'", text_.substr(position_, 1), "'") : "the end";
    return absl::InvalidArgumentError(
        absl::StrCat("column ", position_ + 1, ": ", expected, ", found ", found));
  }
  absl::Status TooMany() const {
    return absl::InvalidArgumentError(absl::StrCat("column ", position_ + 1, ": expected at most ",
                                                   kMaxLayers, " layers in all"));
  }

  const std::string& text_;
  size_t position_ = 0;
};

std::string Letters(const LayerKind& layer) {
  return absl::StrCat(layer.mixer == MixerKind::kAttention ? "A" : "M",
                      layer.feed_forward == FeedForwardKind::kExperts ? "e" : "d");
}

// Shortest texts of all ranges of layers, by dynamic programming: a range is one layer, or two
// neighbouring ranges, or a repetition of its first part.
class PatternShortener {
 public:
  explicit PatternShortener(std::span<const LayerKind> layers)
      : layers_(layers),
        size_(static_cast<int>(layers.size())),
        best_(layers.size() * layers.size()) {}

  std::string Shortest() {
    if (size_ == 0) return "";
    for (int length = 1; length <= size_; ++length) {
      for (int begin = 0; begin + length <= size_; ++begin) Solve(begin, length);
    }
    return Text(0, size_);
  }

 private:
  struct Choice {
    int characters = 0;
    int repetitions = 0;
    int split = 0;   // length of the first part, where it is two parts
    int period = 0;  // length of what is repeated, where it is a repetition
  };

  Choice& At(int begin, int length) { return best_[begin * size_ + length - 1]; }

  static bool Better(const Choice& a, const Choice& b) {
    return a.characters != b.characters ? a.characters < b.characters
                                        : a.repetitions < b.repetitions;
  }

  void Solve(int begin, int length) {
    if (length == 1) {
      At(begin, 1) = {.characters = 2};
      return;
    }
    Choice best{.characters = 2 * length + 1};
    for (int split = 1; split < length; ++split) {
      const Choice& left = At(begin, split);
      const Choice& right = At(begin + split, length - split);
      const Choice choice{.characters = left.characters + right.characters,
                          .repetitions = left.repetitions + right.repetitions,
                          .split = split};
      if (Better(choice, best)) best = choice;
    }
    for (int period = 1; period <= length / 2; ++period) {
      if (length % period != 0 || !HasPeriod(begin, length, period)) continue;
      const Choice& once = At(begin, period);
      const int digits = static_cast<int>(std::to_string(length / period).size());
      const Choice choice{.characters = digits + 1 + (period == 1 ? 0 : 2) + once.characters,
                          .repetitions = once.repetitions + 1,
                          .period = period};
      if (Better(choice, best)) best = choice;
    }
    At(begin, length) = best;
  }

  bool HasPeriod(int begin, int length, int period) const {
    for (int i = begin; i + period < begin + length; ++i) {
      if (!(layers_[i] == layers_[i + period])) return false;
    }
    return true;
  }

  std::string Text(int begin, int length) {
    const Choice choice = At(begin, length);
    if (choice.period > 0) {
      const std::string once = Text(begin, choice.period);
      return choice.period == 1 ? absl::StrCat(length, "*", once)
                                : absl::StrCat(length / choice.period, "*(", once, ")");
    }
    if (choice.split > 0) {
      return Text(begin, choice.split) + Text(begin + choice.split, length - choice.split);
    }
    return Letters(layers_[begin]);
  }

  std::span<const LayerKind> layers_;
  int size_;
  std::vector<Choice> best_;
};

bool RepeatsEvery(size_t period, std::span<const LayerKind> layers) {
  return std::equal(layers.begin() + static_cast<int64_t>(period), layers.end(), layers.begin());
}

}  // namespace

absl::StatusOr<std::vector<LayerKind>> ParseLayerPattern(const std::string& pattern) {
  return PatternParser(pattern).Parse();
}

absl::StatusOr<std::vector<LayerKind>> LayersOf(const recipe::v1::Model& model) {
  const int64_t layers = model.layers();
  if (layers < 1 || layers > kMaxLayers) {
    return absl::InvalidArgumentError(
        absl::StrCat("model.layers: expected 1 to ", kMaxLayers, ", got ", layers));
  }
  if (model.has_schedule() && model.has_pattern()) {
    return absl::InvalidArgumentError("model.pattern: set either it or model.schedule, not both");
  }
  if (model.family() == recipe::v1::Model::LLAMA) {
    if (model.has_schedule() || model.has_pattern()) {
      return absl::InvalidArgumentError("model.family LLAMA takes neither schedule nor pattern");
    }
    return std::vector<LayerKind>(layers);
  }
  if (model.has_pattern()) {
    auto kinds = ParseLayerPattern(model.pattern());
    if (!kinds.ok()) return Annotate(kinds.status(), "model.pattern");
    if (static_cast<int64_t>(kinds->size()) != layers) {
      return absl::InvalidArgumentError(absl::StrCat(
          "model.pattern: expected model.layers = ", layers, " layers, got ", kinds->size()));
    }
    return kinds;
  }
  const recipe::v1::LayerSchedule& schedule = model.schedule();
  const bool has_experts = model.experts().experts() > 1 && schedule.has_expert_layer_period();
  const auto fits = [](int64_t period, int64_t offset) { return offset >= 0 && offset < period; };
  if (!fits(schedule.attention_layer_period(), schedule.attention_layer_offset()) ||
      (has_experts && !fits(schedule.expert_layer_period(), schedule.expert_layer_offset()))) {
    return absl::InvalidArgumentError(
        "model.schedule: expected periods of at least 1 and offsets below them");
  }
  std::vector<LayerKind> kinds(layers);
  for (int64_t i = 0; i < layers; ++i) {
    if (i % schedule.attention_layer_period() != schedule.attention_layer_offset()) {
      kinds[i].mixer = MixerKind::kMamba1;
    }
    if (has_experts && i % schedule.expert_layer_period() == schedule.expert_layer_offset()) {
      kinds[i].feed_forward = FeedForwardKind::kExperts;
    }
  }
  return kinds;
}

std::string ShortestPattern(std::span<const LayerKind> layers) {
  PLAIT_CHECK(static_cast<int64_t>(layers.size()) <= kMaxLayers);
  if (layers.size() <= kMaxShortened) return PatternShortener(layers).Shortest();
  for (size_t period = 1; period <= kMaxShortened; ++period) {
    if (!RepeatsEvery(period, layers)) continue;
    const std::string once = ShortestPattern(layers.first(period));
    const size_t count = layers.size() / period;
    return absl::StrCat(count, "*", period == 1 ? once : absl::StrCat("(", once, ")"),
                        ShortestPattern(layers.subspan(count * period)));
  }
  return ShortestPattern(layers.first(kMaxShortened)) +
         ShortestPattern(layers.subspan(kMaxShortened));
}

}  // namespace plait
