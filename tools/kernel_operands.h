// What the cases of `plait bench kernels` are made of.
#pragma once

#include <cstdint>
#include <functional>
#include <initializer_list>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/benchmark.h"
#include "tools/kernel_sizes.h"
#include "tools/kernel_timer.h"

namespace plait {

// Tensors of one operation's arguments, on the timer's device. The first error is kept: a tensor
// that could not be made is absent, and nothing is run then.
class Operands {
 public:
  explicit Operands(KernelTimer& timer) : execution_(timer.execution()) {}

  // Uniform in [-0.5, 0.5).
  Tensor Bf16(int64_t rows, int64_t columns) { return Make(DType::kBf16, {rows, columns}); }
  Tensor Bf16(int64_t size) { return Make(DType::kBf16, {size}); }
  Tensor F32(int64_t rows, int64_t columns) { return Make(DType::kF32, {rows, columns}); }
  Tensor F32(int64_t size) { return Make(DType::kF32, {size}); }
  // Uniform in [0, 1).
  Tensor NotNegativeF32(int64_t size) { return Make(DType::kF32, {size}, /*least=*/0); }
  // For results alone: not initialised.
  Tensor F64(int64_t size) { return execution_.Empty(DType::kF64, {size}); }
  Tensor I64(int64_t size) { return execution_.Empty(DType::kI64, {size}); }
  // Element i is value(i).
  Tensor F32(int64_t size, const std::function<float(int64_t)>& value) {
    return From<float>(DType::kF32, size, value);
  }
  Tensor Integers(int64_t size, const std::function<int64_t(int64_t)>& value) {
    return From<int32_t>(DType::kI32, size, value);
  }

  const absl::Status& status() const { return status_; }

 private:
  Tensor Make(DType dtype, const Shape& shape, float least = -0.5f) {
    return Keep(BenchmarkTensor(execution_, dtype, shape, least), {});
  }
  template <class T, class Value>
  Tensor From(DType dtype, int64_t size, const Value& value) {
    Tensor host = Tensor::OnHost(dtype, {size});
    for (int64_t i = 0; i < size; ++i) host.data<T>()[i] = static_cast<T>(value(i));
    return Keep(execution_.ToDevice(host), host);
  }
  Tensor Keep(absl::StatusOr<Tensor> tensor, const Tensor& host) {
    // A host tensor is read until the stream has come so far.
    if (host) status_.Update(execution_.compute().Synchronize());
    if (tensor.ok()) return *std::move(tensor);
    status_.Update(tensor.status());
    return {};
  }

  Execution& execution_;
  absl::Status status_;
};

// A document begins every document_tokens.
inline std::vector<int32_t> Documents(const KernelSizes& sizes) {
  std::vector<int32_t> offsets;
  for (int64_t t = 0; t < sizes.tokens; t += sizes.document_tokens) {
    offsets.push_back(static_cast<int32_t>(t));
  }
  offsets.push_back(static_cast<int32_t>(sizes.tokens));
  return offsets;
}

// Of each once; one that is named twice is both read and written.
inline double Bytes(std::initializer_list<const Tensor*> tensors) {
  double bytes = 0;
  for (const Tensor* tensor : tensors) bytes += static_cast<double>(tensor->bytes());
  return bytes;
}

inline double Product(int64_t a, int64_t b, int64_t c) {
  return static_cast<double>(a) * static_cast<double>(b) * static_cast<double>(c);
}

template <class... Words>
std::string Describe(const KernelSizes& sizes, const Words&... words) {
  return absl::StrCat(sizes.tokens, " tokens, ", words..., ", bf16");
}

}  // namespace plait
