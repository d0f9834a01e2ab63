// Attention over the context axis as messages between processes, larger than what MPI sends without
// waiting for the receiver.
#include "model/context_attention.h"

#include <gmock/gmock.h>

#include <memory>
#include <vector>

#include "tests/support/random_tensor.h"
#include "tests/support/ranked.h"
#include "tests/support/status_matchers.h"
#include "tests/support/tensor_matchers.h"

namespace plait {
namespace {

constexpr int64_t kHeads = 4, kKvHeads = 2, kHeadDim = 32, kTokens = 1536;
constexpr AttentionLayout kLayout = {
    .heads = kHeads, .kv_heads = kKvHeads, .head_dim = kHeadDim, .scale = 0.17};

TEST(ContextAttentionTest, RanksEqualOne) {
  Communicator& world = *RankedWorld();
  const std::unique_ptr<Communicator> single = MakeSingleRankCommunicator();
  const int64_t segment = kTokens / world.size(), begin = world.rank() * segment;
  const int64_t end = begin + segment;
  Execution execution({.num_threads = 1});
  const Tensor q = UniformTensor({kTokens, kHeads * kHeadDim}, 1, DType::kF32, -2, 2);
  const Tensor k = UniformTensor({kTokens, kKvHeads * kHeadDim}, 2, DType::kF32, -2, 2);
  const Tensor v = UniformTensor({kTokens, kKvHeads * kHeadDim}, 3, DType::kF32);
  const Tensor dout = UniformTensor(q.shape(), 4, DType::kF32);
  for (const std::vector<int32_t>& offsets :
       {std::vector<int32_t>{0, kTokens}, {0, 100, 1000, 1300, kTokens}}) {
    ContextAttention::Saved saved;
    const ContextAttention alone(*single, ContextExchange::kGather, kLayout);
    ASSERT_OK_AND_ASSIGN(const Tensor whole, alone.Forward(execution, offsets, q, k, v, &saved));
    ASSERT_OK_AND_ASSIGN(const auto expected, alone.Backward(execution, offsets, dout, saved));
    for (const ContextExchange exchange : {ContextExchange::kGather, ContextExchange::kRing}) {
      SCOPED_TRACE(exchange == ContextExchange::kRing ? "ring" : "gather");
      const ContextAttention attention(world, exchange, kLayout);
      ASSERT_OK_AND_ASSIGN(const Tensor out,
                           attention.Forward(execution, offsets, q.Slice(begin, end),
                                             k.Slice(begin, end), v.Slice(begin, end), &saved));
      ASSERT_OK_AND_ASSIGN(const auto found,
                           attention.Backward(execution, offsets, dout.Slice(begin, end), saved));
      // Decision 29.
      ExpectClose("out", out, whole.Slice(begin, end), 2e-5);
      ExpectClose("dq", found.dq, expected.dq.Slice(begin, end), 2e-5);
      ExpectClose("dk", found.dk, expected.dk.Slice(begin, end), 2e-5);
      ExpectClose("dv", found.dv, expected.dv.Slice(begin, end), 2e-5);
    }
  }
}

}  // namespace
}  // namespace plait
