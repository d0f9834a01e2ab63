// Matrix product by oneDNN: for bf16 where the processor multiplies bf16 (AVX512_BF16 and above).
// The f32 form is the same code with another data type; the own GEMM is preferred to it.
// Threads: each product runs on the calling thread; we cut c into rows or columns ourselves, so
// that oneDNN never divides an inner sum by the number of threads.
#pragma once

#include <compare>
#include <map>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/execution.h"
#include "kernels/matmul_args.h"

namespace plait::cpu {

// What a oneDNN primitive is made for: everything but the pointers.
struct OnednnShape {
  int64_t m = 0, n = 0, k = 0;
  DType operands = DType::kBf16;  // bf16 or f32
  DType output = DType::kBf16;
  int64_t a_stride = 0, b_stride = 0, c_stride = 0;  // elements between rows in memory
  Transpose transpose_a = Transpose::kNo;
  Transpose transpose_b = Transpose::kNo;
  Accumulate accumulate = Accumulate::kNo;  // kYes: output is f32
  bool has_bias = false;
  DType bias = DType::kF32;

  friend auto operator<=>(const OnednnShape&, const OnednnShape&) = default;
};

// A primitive for one shape. Run may be called by several threads at once, each with its own
// scratch of scratch_bytes().
class OnednnProduct {
 public:
  // Internal: what oneDNN says of a shape it does not take.
  static absl::StatusOr<std::unique_ptr<OnednnProduct>> Create(const OnednnShape& shape);
  ~OnednnProduct();

  // Computes on the calling thread and waits. bias: null where the shape has none.
  absl::Status Run(const void* a, const void* b, const void* bias, void* c, void* scratch) const;

  size_t scratch_bytes() const;  // a multiple of 64

 private:
  struct State;
  explicit OnednnProduct(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

// Products made so far: Execution::Cache<OnednnProducts>(). Not thread-safe. Shapes come and go
// with lengths of prompts: past kMost every one is dropped and made again when asked for, so
// pointers hold until the next kernel only.
class OnednnProducts {
 public:
  static constexpr size_t kMost = 4096;

  // To be called once by a kernel, before its first Get.
  void StartKernel();
  absl::StatusOr<const OnednnProduct*> Get(const OnednnShape& shape);

 private:
  std::map<OnednnShape, std::unique_ptr<OnednnProduct>> products_;
};

// Why oneDNN is not taken for operands a and b and output c, or nothing.
std::string OnednnRefuses(DType wanted, DType a, DType b, DType c);

std::string AcceptsOnednnBf16Matmul(const MatmulArgs& args);
std::string AcceptsOnednnF32Matmul(const MatmulArgs& args);
absl::Status OnednnMatmul(Execution& execution, const MatmulArgs& args);

}  // namespace plait::cpu
