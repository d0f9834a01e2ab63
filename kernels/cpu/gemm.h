// Own matrix product for every vector width: c (+)= op(a) op(b) + bias, f32 inside.
// Operands are packed into f32 panels (so any mix of bf16 and f32, any transposition and gathered
// rows cost the same), then multiplied by a register-blocked kernel. Every element of c is a sum in
// an order that depends on k alone: blocks of kGemmInnerBlock products, each one chain of fused
// multiply-adds, added block after block in f32. So neither m, n, the position of a row, nor the
// number of threads changes bits.
// Structure: Goto and van de Geijn, "Anatomy of High-Performance Matrix Multiplication", 2008.
#pragma once

#include <cstdint>
#include <span>

#include "base/execution.h"
#include "base/view.h"
#include "kernels/matmul_args.h"

namespace plait::cpu {

constexpr int64_t kGemmInnerBlock = 256;

struct GemmOperand {
  const void* data = nullptr;
  DType dtype = DType::kF32;  // bf16 or f32
  int64_t row_stride = 0;     // elements between rows in memory
  Transpose transpose = Transpose::kNo;
  // Absent: row r of the operand, as it lies in memory (before `transpose`), is row r of the data.
  // Otherwise it is row row_index[r].
  const int32_t* row_index = nullptr;
};

struct GemmProblem {
  int64_t m = 0, n = 0, k = 0;
  GemmOperand a;                            // [m, k], or [k, m] in memory if transposed
  GemmOperand b;                            // [k, n], or [n, k] in memory if transposed
  MatrixView c;                             // [m, n], bf16 or f32
  ConstVectorView bias;                     // [n], bf16 or f32; absent: none
  Accumulate accumulate = Accumulate::kNo;  // kYes: c is f32 and added to
};

// Computes every problem (the c must not overlap). The work of all of them together is cut into
// pieces of rows and columns that the threads share, so that many small problems keep every thread
// busy.
void Gemm(Execution& execution, std::span<const GemmProblem> problems);

}  // namespace plait::cpu
