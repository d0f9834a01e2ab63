#include "kernels/cpu/onednn_grouped_matmul.h"

#include <omp.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <vector>

#include "base/status_macros.h"
#include "kernels/cpu/onednn_matmul.h"

namespace plait::cpu {
namespace {

constexpr int64_t kRowBlock = 256;    // rows of one product; fewer go up to the next kRowUnit
constexpr int64_t kRowUnit = 32;      // so there are 8 sizes
constexpr int64_t kInnerBlock = 512;  // rows summed by one product of a weight gradient
constexpr int64_t kInnerUnit = 64;
constexpr int64_t kGradientRows = 256;  // rows of a group's gradient that one thread sums

int64_t RoundedUp(int64_t value, int64_t to) { return (value + to - 1) / to * to; }

char* Element(const ConstMatrixView& view, int64_t row, int64_t column) {
  const int64_t element = row * view.row_stride + column;
  return static_cast<char*>(const_cast<void*>(view.data)) +
         element * static_cast<int64_t>(SizeOf(view.dtype));
}

// Rows [row, + rows), columns [column, + columns) of `from` (rows through row_index where given) to
// `to`, contiguous, then zero rows up to `padded_rows`.
void GatherRows(const ConstMatrixView& from, const int32_t* row_index, int64_t row, int64_t rows,
                int64_t padded_rows, int64_t column, int64_t columns, char* to) {
  const size_t bytes = static_cast<size_t>(columns) * SizeOf(from.dtype);
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t source = row_index != nullptr ? row_index[row + r] : row + r;
    std::memcpy(to + static_cast<size_t>(r) * bytes, Element(from, source, column), bytes);
  }
  std::memset(to + static_cast<size_t>(rows) * bytes, 0,
              static_cast<size_t>(padded_rows - rows) * bytes);
}

// Runs body(i, scratch) for every i in [0, items) on the execution's threads, each with scratch of
// `bytes`. The first failure is returned.
absl::Status ForEachItem(Execution& execution, int64_t items, size_t bytes,
                         const std::function<absl::Status(int64_t, char*)>& body) {
  bytes = (bytes + 63) / 64 * 64;
  const int64_t threads = std::clamp<int64_t>(items, 1, execution.num_threads());
  const std::shared_ptr<void> scratch =
      execution.allocator().Allocate(static_cast<size_t>(threads) * bytes);
  std::vector<absl::Status> statuses(static_cast<size_t>(items));
#pragma omp parallel for num_threads(static_cast <int>(threads)) schedule(dynamic, 1)
  for (int64_t i = 0; i < items; ++i) {
    char* own =
        static_cast<char*>(scratch.get()) + static_cast<size_t>(omp_get_thread_num()) * bytes;
    statuses[static_cast<size_t>(i)] = body(i, own);
  }
  for (const absl::Status& status : statuses) PLAIT_RETURN_IF_ERROR(status);
  return absl::OkStatus();
}

std::string Refuses(DType wanted, const GroupedMatmulArgs& args) {
  std::string reason = OnednnRefuses(wanted, args.a.dtype, args.b.dtype, args.c.dtype);
  return reason.empty() && args.a.columns == 0 ? "the inner size is 0" : reason;
}

std::string Refuses(DType wanted, const GroupedWeightGradientArgs& args) {
  std::string reason = OnednnRefuses(wanted, args.a.dtype, args.b.dtype, args.c.dtype);
  return reason.empty() && args.c.dtype != DType::kF32 ? "output is not f32" : reason;
}

}  // namespace

std::string AcceptsOnednnBf16GroupedMatmul(const GroupedMatmulArgs& args) {
  return Refuses(DType::kBf16, args);
}
std::string AcceptsOnednnF32GroupedMatmul(const GroupedMatmulArgs& args) {
  return Refuses(DType::kF32, args);
}
std::string AcceptsOnednnBf16GroupedWeightGradient(const GroupedWeightGradientArgs& args) {
  return Refuses(DType::kBf16, args);
}
std::string AcceptsOnednnF32GroupedWeightGradient(const GroupedWeightGradientArgs& args) {
  return Refuses(DType::kF32, args);
}

absl::Status OnednnGroupedMatmul(Execution& execution, const GroupedMatmulArgs& args) {
  struct Block {
    const OnednnProduct* product;
    int64_t group, row, rows, padded_rows;
  };
  const int64_t k = args.a.columns, n = args.c.columns;
  auto& products = execution.Cache<OnednnProducts>();
  products.StartKernel();
  std::vector<Block> blocks;
  size_t product_scratch = 0;
  for (int64_t g = 0; g < args.groups; ++g) {
    for (int64_t row = args.offsets[g]; row < args.offsets[g + 1]; row += kRowBlock) {
      const int64_t rows = std::min<int64_t>(kRowBlock, args.offsets[g + 1] - row);
      const int64_t padded = RoundedUp(rows, kRowUnit);
      PLAIT_ASSIGN_OR_RETURN(const OnednnProduct* product,
                             products.Get({.m = padded,
                                           .n = n,
                                           .k = k,
                                           .operands = args.a.dtype,
                                           .output = args.c.dtype,
                                           .a_stride = k,
                                           .b_stride = args.b.row_stride,
                                           .c_stride = rows == padded ? args.c.row_stride : n,
                                           .transpose_b = args.transpose_b}));
      product_scratch = std::max(product_scratch, product->scratch_bytes());
      blocks.push_back({product, g, row, rows, padded});
    }
  }
  const size_t row_bytes_of_c = static_cast<size_t>(n) * SizeOf(args.c.dtype);
  const auto gathered_bytes = static_cast<size_t>(
      RoundedUp(kRowBlock * k * static_cast<int64_t>(SizeOf(args.a.dtype)), 64));
  return ForEachItem(
      execution, static_cast<int64_t>(blocks.size()),
      product_scratch + gathered_bytes + kRowBlock * row_bytes_of_c, [&](int64_t i, char* scratch) {
        const Block& block = blocks[static_cast<size_t>(i)];
        char* gathered = scratch + product_scratch;
        char* padded_c = gathered + gathered_bytes;
        const bool in_place = block.rows == block.padded_rows;
        GatherRows(args.a, args.row_index, block.row, block.rows, block.padded_rows, 0, k,
                   gathered);
        PLAIT_RETURN_IF_ERROR(block.product->Run(
            gathered, Element(args.b, block.group * (args.b.rows / args.groups), 0), nullptr,
            in_place ? Element(args.c, block.row, 0) : padded_c, scratch));
        for (int64_t r = 0; !in_place && r < block.rows; ++r) {
          std::memcpy(Element(args.c, block.row + r, 0),
                      padded_c + static_cast<size_t>(r) * row_bytes_of_c, row_bytes_of_c);
        }
        return absl::OkStatus();
      });
}

absl::Status OnednnGroupedWeightGradient(Execution& execution,
                                         const GroupedWeightGradientArgs& args) {
  struct Block {  // of the inner sum
    const OnednnProduct* product;
    int64_t row, rows, padded_rows;
    bool copies_a, copies_b;
  };
  struct Item {
    int64_t group, column, columns;  // of a: rows of the group's gradient
    std::vector<Block> blocks;
  };
  const int64_t m = args.a.columns, n = args.b.columns;
  auto& products = execution.Cache<OnednnProducts>();
  products.StartKernel();
  std::vector<Item> items;
  size_t product_scratch = 0;
  for (int64_t g = 0; g < args.groups; ++g) {
    if (args.offsets[g] == args.offsets[g + 1]) continue;
    for (int64_t column = 0; column < m; column += kGradientRows) {
      Item item{g, column, std::min(kGradientRows, m - column), {}};
      for (int64_t row = args.offsets[g]; row < args.offsets[g + 1]; row += kInnerBlock) {
        const int64_t rows = std::min<int64_t>(kInnerBlock, args.offsets[g + 1] - row);
        const int64_t padded = RoundedUp(rows, kInnerUnit);
        const bool copies_a = rows != padded;
        const bool copies_b = copies_a || args.row_index != nullptr;
        PLAIT_ASSIGN_OR_RETURN(
            const OnednnProduct* product,
            products.Get({.m = item.columns,
                          .n = n,
                          .k = padded,
                          .operands = args.a.dtype,
                          .output = args.c.dtype,
                          .a_stride = copies_a ? item.columns : args.a.row_stride,
                          .b_stride = copies_b ? n : args.b.row_stride,
                          .c_stride = args.c.row_stride,
                          .transpose_a = Transpose::kYes,
                          .accumulate = Accumulate::kYes}));
        product_scratch = std::max(product_scratch, product->scratch_bytes());
        item.blocks.push_back({product, row, rows, padded, copies_a, copies_b});
      }
      items.push_back(std::move(item));
    }
  }
  const size_t a_bytes = static_cast<size_t>(kInnerBlock * kGradientRows) * SizeOf(args.a.dtype);
  const size_t b_bytes = static_cast<size_t>(kInnerBlock * n) * SizeOf(args.b.dtype);
  return ForEachItem(execution, static_cast<int64_t>(items.size()),
                     product_scratch + a_bytes + b_bytes, [&](int64_t i, char* scratch) {
                       const Item& item = items[static_cast<size_t>(i)];
                       char* copied_a = scratch + product_scratch;
                       char* copied_b = copied_a + a_bytes;
                       for (const Block& block : item.blocks) {
                         const void* a = Element(args.a, block.row, item.column);
                         if (block.copies_a) {
                           GatherRows(args.a, nullptr, block.row, block.rows, block.padded_rows,
                                      item.column, item.columns, copied_a);
                           a = copied_a;
                         }
                         if (block.copies_b) {
                           GatherRows(args.b, args.row_index, block.row, block.rows,
                                      block.padded_rows, 0, n, copied_b);
                         }
                         PLAIT_RETURN_IF_ERROR(block.product->Run(
                             a, block.copies_b ? copied_b : Element(args.b, block.row, 0), nullptr,
                             Element(args.c, item.group * m + item.column, 0), scratch));
                       }
                       return absl::OkStatus();
                     });
}

}  // namespace plait::cpu
