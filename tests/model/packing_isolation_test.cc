// Documents packed into one microbatch must not see one another, whatever lies beside them.
#include "model/language_model.h"
#include "tests/support/tensor_matchers.h"
#include "tests/support/tiny_model.h"

namespace plait {
namespace {

// Log-probabilities of document B, alone or after document A. Weight on B only.
struct Packed {
  Microbatch microbatch;
  int64_t begin;
};

Packed Pack(const std::vector<int32_t>& a, const std::vector<int32_t>& b, DType dtype) {
  std::vector<int32_t> ids = a, offsets = {0};
  if (!a.empty()) offsets.push_back(static_cast<int32_t>(a.size()));
  ids.insert(ids.end(), b.begin(), b.end());
  offsets.push_back(static_cast<int32_t>(ids.size()));
  const auto tokens = static_cast<int64_t>(ids.size());
  std::vector<int32_t> targets(tokens, 0);
  std::vector<float> weights(tokens, 0.0f);
  for (size_t t = 0; t + 1 < b.size(); ++t) {
    targets[a.size() + t] = b[t + 1];
    weights[a.size() + t] = 1.0f;
  }
  auto microbatch = Microbatch::Create(
      Tensor::FromValues<int32_t>({tokens}, ids), Tensor::FromValues<int32_t>({tokens}, targets),
      Tensor::FromValues<float>({tokens}, weights),
      Tensor::FromValues<int32_t>({static_cast<int64_t>(offsets.size())}, offsets), dtype);
  PLAIT_CHECK(microbatch.ok());
  return {*std::move(microbatch), static_cast<int64_t>(a.size())};
}

// Ids first_id .. first_id + 7, so that documents can have no id in common.
std::vector<int32_t> RandomDocument(int32_t length, uint64_t seed, int32_t first_id = 0) {
  std::vector<int32_t> ids(length);
  const RandomKey key(seed, RandomPurpose::kTest);
  for (int32_t t = 0; t < length; ++t)
    ids[t] = first_id + static_cast<int32_t>(key.Words(t)[0] % 8);
  return ids;
}

// B's log-probabilities and the gradient of its input, bit for bit, whatever A holds: the
// embedding's rows of ids that only B has are the sum of B's input gradients, in token order.
TEST(PackingIsolationTest, NothingOfOneDocumentReachesAnother) {
  for (const DType dtype : {DType::kBf16, DType::kF32, DType::kF64}) {
    for (const ModelShape& shape : {TinyJamba(), TinyLlama()}) {
      const std::vector<int32_t> b = RandomDocument(41, 1, /*first_id=*/8);
      Tensor first_gradient, first_log_probability;
      for (const uint64_t seed : {2, 3, 4}) {
        ModelUnderTest m(shape, dtype);
        const Packed packed = Pack(RandomDocument(29, seed), b, dtype);
        ASSERT_OK_AND_ASSIGN(const auto losses,
                             m.model->LossAndGradient(m.execution, *m.sharder, packed.microbatch,
                                                      CountsOf({packed.microbatch})));
        const Tensor log_probability =
            losses.log_probability.Slice(packed.begin, packed.begin + 41).Clone();
        const Tensor gradient = m.parameter("model.embed_tokens.weight")
                                    .gradient.Reshape({shape.vocabulary, shape.model_dim})
                                    .Slice(8, 16)
                                    .Clone();
        if (!first_gradient) {
          first_log_probability = log_probability;
          first_gradient = gradient;
        }
        ExpectSameBits("log-probability", log_probability, first_log_probability);
        ExpectSameBits("input gradient", gradient, first_gradient);
      }
    }
  }
}

// Alone, after another document, and after one whose end is on a checkpoint of the scan: the same
// outputs.
TEST(PackingIsolationTest, PlaceInTheMicrobatchDoesNotMatter) {
  for (const DType dtype : {DType::kBf16, DType::kF32, DType::kF64}) {
    for (const ModelShape& shape : {TinyJamba(), TinyLlama()}) {
      ModelUnderTest m(shape, dtype);
      const std::vector<int32_t> b = RandomDocument(41, 1);
      const Packed alone = Pack({}, b, dtype);
      ASSERT_OK_AND_ASSIGN(const Tensor expected,
                           m.model->LogProbabilities(m.execution, *m.sharder, alone.microbatch));
      for (const int32_t length : {1, 5, 31, 32, 33, 64}) {
        const Packed packed = Pack(RandomDocument(length, 7), b, dtype);
        ASSERT_OK_AND_ASSIGN(const Tensor all,
                             m.model->LogProbabilities(m.execution, *m.sharder, packed.microbatch));
        ExpectSameBits("log-probability",
                       all.Slice(length, length + static_cast<int64_t>(b.size())), expected);
      }
    }
  }
}

// Padding on the left, as batches of prompts have it elsewhere: its embedding is zero, but behind a
// projection with a bias its state would not be.
TEST(PackingIsolationTest, PaddingBeforeADocumentChangesNothing) {
  for (const DType dtype : {DType::kBf16, DType::kF32, DType::kF64}) {
    for (const ModelShape& shape : {TinyJamba(), OddJamba(), TinyLlama()}) {
      ModelUnderTest m(shape, dtype);
      const std::vector<int32_t> b = RandomDocument(41, 1);
      const Packed alone = Pack({}, b, dtype);
      ASSERT_OK_AND_ASSIGN(const Tensor expected,
                           m.model->LogProbabilities(m.execution, *m.sharder, alone.microbatch));
      for (const int32_t length : {1, 3, 32}) {
        const Packed padded = Pack(std::vector<int32_t>(length, -1), b, dtype);
        ASSERT_OK_AND_ASSIGN(const Tensor all,
                             m.model->LogProbabilities(m.execution, *m.sharder, padded.microbatch));
        ExpectSameBits("log-probability",
                       all.Slice(length, length + static_cast<int64_t>(b.size())), expected);
      }
    }
  }
}

}  // namespace
}  // namespace plait
