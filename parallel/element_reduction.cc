#include "parallel/element_reduction.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "base/check.h"
#include "kernels/elementwise.h"
#include "kernels/piece_sum.h"

namespace plait {
namespace {

// Blocks stay in the first-level cache, and the inner loops are plain ones over one source.
constexpr int64_t kBlock = 1024;

template <class T, class Accumulator>
void Load(const void* source, int64_t begin, int64_t n, Accumulator* block) {
  const T* from = static_cast<const T*>(source) + begin;
  for (int64_t i = 0; i < n; ++i) block[i] = static_cast<Accumulator>(from[i]);
}

template <class T, class Accumulator>
void Combine(ReduceOperation operation, const void* source, int64_t begin, int64_t n,
             Accumulator* block) {
  const T* from = static_cast<const T*>(source) + begin;
  if (operation == ReduceOperation::kSum) {
    for (int64_t i = 0; i < n; ++i) block[i] += static_cast<Accumulator>(from[i]);
  } else {
    for (int64_t i = 0; i < n; ++i)
      block[i] = std::max(block[i], static_cast<Accumulator>(from[i]));
  }
}

template <class T, class Accumulator>
void Reduce(ReduceOperation operation, std::span<const void* const> sources, int64_t elements,
            void* output) {
  std::array<Accumulator, kBlock> block;
  for (int64_t begin = 0; begin < elements; begin += kBlock) {
    const int64_t n = std::min(kBlock, elements - begin);
    Load<T>(sources[0], begin, n, block.data());
    for (size_t s = 1; s < sources.size(); ++s) {
      Combine<T>(operation, sources[s], begin, n, block.data());
    }
    T* to = static_cast<T*>(output) + begin;
    for (int64_t i = 0; i < n; ++i) to[i] = static_cast<T>(block[i]);
  }
}

template <class T, class Total>
void Accumulate(int num_threads, std::span<const void* const> sources, Total* total,
                int64_t elements) {
#pragma omp parallel for num_threads(num_threads) schedule(static)
  for (int64_t begin = 0; begin < elements; begin += kBlock) {
    std::array<Total, kBlock> block;
    const int64_t n = std::min(kBlock, elements - begin);
    Load<T>(sources[0], begin, n, block.data());
    for (size_t s = 1; s < sources.size(); ++s) {
      Combine<T>(ReduceOperation::kSum, sources[s], begin, n, block.data());
    }
    for (int64_t i = 0; i < n; ++i) total[begin + i] += block[i];
  }
}

template <class T>
void Add(int num_threads, const T* a, const T* b, T* out, int64_t elements) {
#pragma omp parallel for num_threads(num_threads) schedule(static)
  for (int64_t i = 0; i < elements; ++i) out[i] = a[i] + b[i];
}

bool IsHost(const Execution& execution) { return execution.device().kind == DeviceKind::kCpu; }

MatrixView Row(const VectorView& v) { return {v.data, v.dtype, 1, v.size, v.size}; }
ConstMatrixView Row(const ConstVectorView& v) { return {v.data, v.dtype, 1, v.size, v.size}; }

// A float that is read as its nearest bf16.
struct RoundedFloat {
  float value;
  explicit operator float() const { return static_cast<float>(BFloat16(value)); }
};

}  // namespace

void ReduceElements(ReduceOperation operation, DType dtype, std::span<const void* const> sources,
                    int64_t elements, void* output) {
  switch (dtype) {
    case DType::kBf16:
      return Reduce<BFloat16, float>(operation, sources, elements, output);
    case DType::kF16:
      PLAIT_CHECK(false);  // the communicator refuses it
      return;
    case DType::kF32:
      return Reduce<float, float>(operation, sources, elements, output);
    case DType::kF64:
      return Reduce<double, double>(operation, sources, elements, output);
    case DType::kI32:
      if (operation == ReduceOperation::kSum) {
        return Reduce<uint32_t, uint32_t>(operation, sources, elements, output);
      }
      return Reduce<int32_t, int32_t>(operation, sources, elements, output);
    case DType::kI64:
      // Sums may wrap around (digests do).
      if (operation == ReduceOperation::kSum) {
        return Reduce<uint64_t, uint64_t>(operation, sources, elements, output);
      }
      return Reduce<int64_t, int64_t>(operation, sources, elements, output);
  }
}

absl::Status AccumulateElements(Execution& execution, DType dtype,
                                std::span<const void* const> sources, bool round_to_bf16,
                                VectorView total) {
  if (!IsHost(execution)) {
    const auto width = static_cast<int64_t>(SizeOf(dtype));
    const auto distance = [&](size_t i) {
      return static_cast<const char*>(sources[i]) - static_cast<const char*>(sources[i - 1]);
    };
    const int64_t stride = sources.size() > 1 ? distance(1) / width : total.size;
    for (size_t i = 1; i < sources.size(); ++i) PLAIT_CHECK_EQ(distance(i), stride * width);
    const auto rows = static_cast<int64_t>(sources.size());
    return PieceSum(execution, {.pieces = {sources[0], dtype, rows, total.size, stride},
                                .round_to_bf16 = round_to_bf16,
                                .total = total});
  }
  const int num_threads = execution.num_threads();
  if (total.dtype == DType::kF64) {
    PLAIT_CHECK(dtype == DType::kF64);
    Accumulate<double>(num_threads, sources, total.as<double>(), total.size);
    return absl::OkStatus();
  }
  PLAIT_CHECK(total.dtype == DType::kF32);
  float* to = total.as<float>();
  if (dtype == DType::kBf16) {
    Accumulate<BFloat16>(num_threads, sources, to, total.size);
    return absl::OkStatus();
  }
  PLAIT_CHECK(dtype == DType::kF32);
  if (round_to_bf16) {
    Accumulate<RoundedFloat>(num_threads, sources, to, total.size);
  } else {
    Accumulate<float>(num_threads, sources, to, total.size);
  }
  return absl::OkStatus();
}

absl::Status AddElements(Execution& execution, ConstVectorView a, ConstVectorView b,
                         VectorView out) {
  PLAIT_CHECK(a.dtype == out.dtype && b.dtype == out.dtype && a.size == out.size &&
              b.size == out.size);
  if (!IsHost(execution)) {
    return ScaledAdd(execution, {.a = Row(a), .b = Row(b), .out = Row(out)});
  }
  const int num_threads = execution.num_threads();
  if (out.dtype == DType::kF64) {
    Add(num_threads, a.as<double>(), b.as<double>(), out.as<double>(), out.size);
  } else {
    PLAIT_CHECK(out.dtype == DType::kF32);
    Add(num_threads, a.as<float>(), b.as<float>(), out.as<float>(), out.size);
  }
  return absl::OkStatus();
}

absl::Status ConvertElements(Execution& execution, ConstVectorView from, VectorView to) {
  PLAIT_CHECK(from.size == to.size);
  if (to.size == 0) return absl::OkStatus();
  if (!IsHost(execution)) return ScaledAdd(execution, {.b = Row(from), .out = Row(to)});
  if (from.dtype == to.dtype) {
    std::memcpy(to.data, from.data, static_cast<size_t>(to.size) * SizeOf(to.dtype));
  } else if (to.dtype == DType::kBf16) {
    PLAIT_CHECK(from.dtype == DType::kF32);
    for (int64_t i = 0; i < to.size; ++i) to.as<BFloat16>()[i] = BFloat16(from.as<float>()[i]);
  } else {
    PLAIT_CHECK(from.dtype == DType::kBf16 && to.dtype == DType::kF32);
    for (int64_t i = 0; i < to.size; ++i) {
      to.as<float>()[i] = static_cast<float>(from.as<BFloat16>()[i]);
    }
  }
  return absl::OkStatus();
}

}  // namespace plait
