#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <vector>

#include "kernels/optimizer_update.h"
#include "kernels/reference/optimizer_update.h"
#include "tests/support/device_execution.h"
#include "tests/support/random_tensor.h"
#include "tests/support/simd_targets.h"
#include "tests/support/status_matchers.h"
#include "tests/support/tensor_matchers.h"

namespace plait {
namespace {

using ::testing::HasSubstr;

Tensor TileSums(Execution& execution, const Implementation<SquaredNormArgs>& implementation,
                const Tensor& x) {
  Tensor sums = Tensor::OnHost(DType::kF64, {(x.num_elements() + 127) / 128});
  const SquaredNormTensor tensor = {.x = x.vector(), .tile_sums = sums.vector()};
  EXPECT_OK(RunOn(execution, implementation, {.tensors = {&tensor, 1}}));
  return sums;
}

// What every implementation but those that refuse x makes of it.
void ForEachTileSums(const Tensor& x, const std::function<void(const Tensor& sums)>& body) {
  Execution execution({.num_threads = 2});
  for (const auto& implementation : SquaredNormImplementations()) {
    SCOPED_TRACE(implementation.name);
    const SquaredNormTensor tensor = {.x = x.vector()};
    if (!implementation.accepts({.tensors = {&tensor, 1}}).empty()) continue;
    body(TileSums(execution, implementation, x));
  }
}

TEST(SquaredNormTest, ImplementationsAgreeWithTheReference) {
  ForEachSimdTarget([] {
    Execution execution({.num_threads = 2});
    for (const DType dtype : {DType::kF32, DType::kF64}) {
      for (const int64_t elements : {1, 7, 64, 128, 129, 100003}) {
        const Tensor x = UniformTensor({elements}, 1, dtype);
        const int64_t tiles = (elements + 127) / 128;
        Tensor expected = Tensor::OnHost(DType::kF64, {tiles});
        const SquaredNormTensor tensor = {.x = x.vector(), .tile_sums = expected.vector()};
        ASSERT_OK(reference::SquaredNorm(execution, {.tensors = {&tensor, 1}}));
        ForEachTileSums(x, [&](const Tensor& found) {
          for (int64_t i = 0; i < tiles; ++i) {
            // Positive terms: one rounding a term, both ways.
            const double exact = expected.data<double>()[i];
            EXPECT_NEAR(found.data<double>()[i], exact, 2 * 0x1.0p-53 * 128 * exact);
          }
        });
      }
    }
  });
}

// Nor does the place in memory of the first element.
TEST(SquaredNormTest, NeitherThreadsNorCutsChangeBits) {
  const Tensor x = UniformTensor({200003}, 1, DType::kF32);
  Tensor moved = Tensor::OnHost(DType::kF32, {200004});
  std::copy_n(x.data<float>(), 200003, moved.data<float>() + 1);
  Execution one({.num_threads = 1}), three({.num_threads = 3});
  for (const auto& implementation : SquaredNormImplementations()) {
    SCOPED_TRACE(implementation.name);
    const Tensor a = TileSums(one, implementation, x);
    ExpectSameBits("threads", TileSums(three, implementation, x), a);
    const Tensor tail = TileSums(one, implementation, x.Flat(1000 * 128, {200003 - 1000 * 128}));
    ExpectSameBits("cut", tail, a.Slice(1000, a.num_elements()));
    ExpectSameBits("moved", TileSums(one, implementation, moved.Slice(1, 200004)), a);
  }
}

TEST(SquaredNormTest, NumbersThatAreNotFinitePropagate) {
  ForEachSimdTarget([] {
    for (const float bad :
         {std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity(),
          std::numeric_limits<float>::quiet_NaN()}) {
      for (const int64_t position : {0, 70000, 99999}) {
        Tensor x = UniformTensor({100000}, 1, DType::kF32);
        x.data<float>()[position] = bad;
        ForEachTileSums(x, [&](const Tensor& sums) {
          EXPECT_FALSE(std::isfinite(sums.data<double>()[position / 128]))
              << bad << " at " << position;
        });
      }
    }
  });
}

// f32 squares would overflow.
TEST(SquaredNormTest, LargeFiniteNumbersStayFinite) {
  ForEachSimdTarget([] {
    const Tensor x = Tensor::FromValues<float>({2}, {1e30f, 1e30f});
    ForEachTileSums(x, [](const Tensor& sums) { EXPECT_NEAR(sums.data<double>()[0], 2e60, 1e54); });
  });
}

// Tensors of many sizes, some of none, that begin at any place of a vector: more than two launches
// on a device take. Their sums are neighbours.
TEST(SquaredNormTest, ManyAtOnceEqualOneByOne) {
  constexpr int64_t kSizes[] = {1025, 0, 1, 7, 64, 2048, 3, 4099, 128, 130};
  constexpr int64_t kTensors = 300;
  Execution one({.num_threads = 1}), three({.num_threads = 3});
  for (const DType dtype : {DType::kF32, DType::kF64}) {
    std::vector<Tensor> x;
    int64_t num_tiles = 0;
    for (int64_t i = 0; i < kTensors; ++i) {
      const int64_t size = kSizes[i % 10], place = i / 10 % 4;
      const Tensor array = UniformTensor({place + size}, static_cast<uint64_t>(i), dtype);
      x.push_back(array.Slice(place, place + size));
      num_tiles += SquaredNormTiles(size);
    }
    for (const auto& implementation : SquaredNormImplementations()) {
      SCOPED_TRACE(implementation.name);
      Tensor sums = Tensor::OnHost(DType::kF64, {num_tiles});
      std::vector<SquaredNormTensor> tensors;
      int64_t begin = 0;
      for (const Tensor& array : x) {
        const int64_t end = begin + SquaredNormTiles(array.num_elements());
        tensors.push_back({.x = array.vector(), .tile_sums = sums.Slice(begin, end).vector()});
        begin = end;
      }
      const SquaredNormArgs args = {.tensors = tensors};
      if (!implementation.accepts(args).empty()) continue;
      ASSERT_OK(RunOn(three, implementation, args));
      begin = 0;
      for (const Tensor& array : x) {
        const Tensor alone = TileSums(one, implementation, array.Clone());
        ExpectSameBits("sums", sums.Slice(begin, begin + alone.num_elements()), alone);
        begin += alone.num_elements();
      }
    }
  }
}

TEST(SquaredNormTest, OfNoTensorsThereIsNothingToSum) {
  Execution execution;
  for (const auto& implementation : SquaredNormImplementations()) {
    EXPECT_EQ(implementation.accepts({}), "");
    EXPECT_OK(RunOn(execution, implementation, {}));
  }
}

TEST(SquaredNormTest, RejectsBadArguments) {
  Execution execution;
  const Tensor x = UniformTensor({129}, 1, DType::kF32), f64 = UniformTensor({129}, 1);
  Tensor sums = Tensor::OnHost(DType::kF64, {2}), f32_sums = Tensor::OnHost(DType::kF32, {2});
  const auto sum = [&](const Tensor& second, const VectorView& second_sums) {
    const SquaredNormTensor tensors[] = {
        {.name = "first", .x = x.vector(), .tile_sums = sums.vector()},
        {.name = "second", .x = second.vector(), .tile_sums = second_sums}};
    return SquaredNorm(execution, {.tensors = tensors});
  };
  EXPECT_THAT(sum(x, {}), StatusIs(absl::StatusCode::kInvalidArgument,
                                   HasSubstr("second: tile_sums: expected width 2, got 0")));
  EXPECT_THAT(sum(x, f32_sums.vector()),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("second: tile_sums: expected f64, got f32")));
  EXPECT_THAT(sum(f64, sums.vector()), StatusIs(absl::StatusCode::kInvalidArgument,
                                                HasSubstr("second: x: expected f32, got f64")));
}

}  // namespace
}  // namespace plait
