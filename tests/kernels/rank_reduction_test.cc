#include "kernels/cuda/rank_reduction.h"

#include <algorithm>
#include <cstring>

#include "tests/support/device_execution.h"
#include "tests/support/status_matchers.h"

namespace plait {
namespace {

using cuda::RankReduction;
using ::testing::HasSubstr;

template <class T>
struct Wide {
  using Type = T;
};
template <>
struct Wide<BFloat16> {
  using Type = float;
};

// Numbers whose sum depends on the order, in both signs.
template <class T>
std::vector<T> Numbers(int64_t count, uint64_t seed) {
  std::vector<T> numbers;
  uint64_t state = seed * 0x9e3779b97f4a7c15 + 1;
  for (int64_t i = 0; i < count; ++i) {
    state = state * 6364136223846793005 + 1442695040888963407;
    const auto bits = static_cast<int32_t>(state >> 33) - (1 << 30);
    if constexpr (std::is_integral_v<T>) {
      numbers.push_back(static_cast<T>(int64_t{bits} * 3'000'000'001));
    } else {
      numbers.push_back(static_cast<T>(static_cast<double>(bits) * 1e-7));
    }
  }
  return numbers;
}

// Sums of integers wrap around, as those of unsigned numbers do.
template <class T>
T Expected(RankReduction reduction, const std::vector<T>& values) {
  using A = typename Wide<T>::Type;
  auto total = static_cast<A>(values[0]);
  for (size_t rank = 1; rank < values.size(); ++rank) {
    const auto value = static_cast<A>(values[rank]);
    if (reduction == RankReduction::kMax) {
      total = std::max(total, value);
    } else if constexpr (std::is_integral_v<A>) {
      using U = std::make_unsigned_t<A>;
      total = static_cast<A>(static_cast<U>(total) + static_cast<U>(value));
    } else {
      total += value;
    }
  }
  return static_cast<T>(total);
}

// On the device: rows of `stride` elements that begin `offset` elements after an aligned place; the
// own rank's in a vector of its own, and NaN (0xff) in its row.
template <class T>
void Check(RankReduction reduction, int ranks, int64_t elements, int64_t stride, int64_t offset,
           int own_rank) {
  SCOPED_TRACE(::testing::Message() << ranks << " ranks, " << elements << " elements, stride "
                                    << stride << ", offset " << offset << ", own " << own_rank);
  Execution& execution = *CudaExecution();
  const DType dtype = DTypeOf<T>::value;
  std::vector<T> gathered(static_cast<size_t>(offset + ranks * stride));
  std::vector<T> own;
  std::vector<std::vector<T>> sources;
  for (int rank = 0; rank < ranks; ++rank) {
    sources.push_back(Numbers<T>(elements, static_cast<uint64_t>(rank + 1)));
    const auto row = gathered.begin() + offset + rank * stride;
    if (rank == own_rank) {
      own = sources.back();
      std::fill(reinterpret_cast<char*>(&*row), reinterpret_cast<char*>(&*row + stride), '\xff');
    } else {
      std::copy(sources.back().begin(), sources.back().end(), row);
    }
  }
  const auto on_device = [&](const std::vector<T>& values) {
    return *execution.ToDevice(
        Tensor::FromValues<T>({static_cast<int64_t>(values.size())}, values));
  };
  Tensor rows = on_device(gathered);
  Tensor mine = own_rank >= 0 ? on_device(own) : Tensor();
  Tensor output = execution.Empty(dtype, {elements + 1});
  // The own rank's place is written where there is one: output may be `own`.
  void* const to = own_rank >= 0 ? mine.raw() : output.raw();
  ASSERT_OK(cuda::ReduceRanks(execution.compute().handle(),
                              {.reduction = reduction,
                               .dtype = dtype,
                               .gathered = rows.Flat(offset, {ranks * stride}).raw(),
                               .stride = stride,
                               .own = mine ? mine.raw() : nullptr,
                               .own_rank = std::max(own_rank, 0),
                               .ranks = ranks,
                               .elements = elements,
                               .output = to}));
  ASSERT_OK_AND_ASSIGN(const Tensor result, execution.ToHost(own_rank >= 0 ? mine : output));
  for (int64_t i = 0; i < elements; ++i) {
    std::vector<T> values;
    for (const std::vector<T>& source : sources) values.push_back(source[static_cast<size_t>(i)]);
    const T expected = Expected(reduction, values);
    ASSERT_EQ(std::memcmp(&result.data<T>()[i], &expected, sizeof(T)), 0) << "element " << i;
  }
}

template <class T>
class RankReductionTest : public ::testing::Test {};
using Types = ::testing::Types<BFloat16, float, double, int32_t, int64_t>;
TYPED_TEST_SUITE(RankReductionTest, Types);

TYPED_TEST(RankReductionTest, HasTheBitsOfASumInRankOrder) {
  for (const RankReduction reduction : {RankReduction::kSum, RankReduction::kMax}) {
    Check<TypeParam>(reduction, 1, 5, 5, 0, -1);
    Check<TypeParam>(reduction, 3, 1, 1, 0, -1);
    Check<TypeParam>(reduction, 4, 64, 64, 0, -1);     // whole packs
    Check<TypeParam>(reduction, 5, 131, 192, 0, 2);    // packs and a rest
    Check<TypeParam>(reduction, 3, 131, 131, 0, -1);   // rows out of step with packs
    Check<TypeParam>(reduction, 2, 77, 128, 1, 0);     // no row aligned
    Check<TypeParam>(reduction, 4, 4099, 4160, 0, 3);  // several blocks
  }
}

TYPED_TEST(RankReductionTest, ThreadsGoOnToFurtherPacks) {
  // More packs than the 1056 blocks of 256 threads of the largest launch.
  const int64_t elements = 1056 * 256 * (16 / static_cast<int64_t>(sizeof(TypeParam))) + 1000;
  Check<TypeParam>(RankReduction::kSum, 2, elements, elements + 64 - elements % 64, 0, -1);
}

TEST(RankReductionErrorTest, RefusesF16) {
  EXPECT_THAT(cuda::ReduceRanks(nullptr, {.dtype = DType::kF16, .ranks = 2, .elements = 1}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("f16 is for storage only")));
  EXPECT_OK(cuda::ReduceRanks(nullptr, {.dtype = DType::kF32, .ranks = 2, .elements = 0}));
}

}  // namespace
}  // namespace plait
