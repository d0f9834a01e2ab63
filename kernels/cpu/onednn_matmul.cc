#include "kernels/cpu/onednn_matmul.h"

#include <omp.h>

#include <algorithm>
#include <unordered_map>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "oneapi/dnnl/dnnl.hpp"

namespace plait::cpu {
namespace {

// oneDNN sizes its work by OpenMP's maximum: one thread while this lives.
class OneThread {
 public:
  OneThread() : before_(omp_get_max_threads()) { omp_set_num_threads(1); }
  ~OneThread() { omp_set_num_threads(before_); }
  OneThread(const OneThread&) = delete;
  OneThread& operator=(const OneThread&) = delete;

 private:
  int before_;
};

dnnl::memory::data_type DataType(DType dtype) {
  return dtype == DType::kBf16 ? dnnl::memory::data_type::bf16 : dnnl::memory::data_type::f32;
}

dnnl::memory::desc Matrix(int64_t rows, int64_t columns, DType dtype, int64_t stride,
                          Transpose transpose) {
  const bool transposed = transpose == Transpose::kYes;
  return {{rows, columns},
          DataType(dtype),
          transposed ? dnnl::memory::dims{1, stride} : dnnl::memory::dims{stride, 1}};
}

absl::Status Failure(const dnnl::error& error, const OnednnShape& shape) {
  return absl::InternalError(absl::StrCat("oneDNN matmul [", shape.m, ", ", shape.k, "] x [",
                                          shape.k, ", ", shape.n, "] ", Name(shape.operands), ": ",
                                          error.what(), " (status ", error.status, ")"));
}

int64_t DividedUp(int64_t value, int64_t by) { return (value + by - 1) / by; }

// `elements` further on.
const void* Advance(const void* data, DType dtype, int64_t elements) {
  if (data == nullptr) return nullptr;
  return static_cast<const char*>(data) + elements * static_cast<int64_t>(SizeOf(dtype));
}

}  // namespace

struct OnednnProduct::State {
  OnednnShape shape;
  dnnl::engine engine{dnnl::engine::kind::cpu, 0};
  dnnl::memory::desc a, b, bias, c, scratch;
  dnnl::matmul primitive;
};

OnednnProduct::OnednnProduct(std::unique_ptr<State> state) : state_(std::move(state)) {}
OnednnProduct::~OnednnProduct() = default;

absl::StatusOr<std::unique_ptr<OnednnProduct>> OnednnProduct::Create(const OnednnShape& shape) {
  const OneThread one_thread;
  try {
    auto state = std::make_unique<State>();
    state->shape = shape;
    state->a = Matrix(shape.m, shape.k, shape.operands, shape.a_stride, shape.transpose_a);
    state->b = Matrix(shape.k, shape.n, shape.operands, shape.b_stride, shape.transpose_b);
    state->c = Matrix(shape.m, shape.n, shape.output, shape.c_stride, Transpose::kNo);
    if (shape.has_bias) state->bias = Matrix(1, shape.n, shape.bias, shape.n, Transpose::kNo);
    dnnl::primitive_attr attributes;
    // Scratch is ours: oneDNN's own is not for several threads at once.
    attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    if (shape.accumulate == Accumulate::kYes) {
      dnnl::post_ops sum;
      sum.append_sum(1.0f);
      attributes.set_post_ops(sum);
    }
    const auto descriptor = shape.has_bias
                                ? dnnl::matmul::desc(state->a, state->b, state->bias, state->c)
                                : dnnl::matmul::desc(state->a, state->b, state->c);
    const dnnl::matmul::primitive_desc primitive(descriptor, attributes, state->engine);
    state->scratch = primitive.scratchpad_desc();
    state->primitive = dnnl::matmul(primitive);
    return std::unique_ptr<OnednnProduct>(new OnednnProduct(std::move(state)));
  } catch (const dnnl::error& error) {
    return Failure(error, shape);
  }
}

size_t OnednnProduct::scratch_bytes() const { return (state_->scratch.get_size() + 63) / 64 * 64; }

absl::Status OnednnProduct::Run(const void* a, const void* b, const void* bias, void* c,
                                void* scratch) const {
  const OneThread one_thread;
  const auto memory = [&](const dnnl::memory::desc& descriptor, const void* data) {
    return dnnl::memory(descriptor, state_->engine, const_cast<void*>(data));
  };
  try {
    std::unordered_map<int, dnnl::memory> arguments = {
        {DNNL_ARG_SRC, memory(state_->a, a)},
        {DNNL_ARG_WEIGHTS, memory(state_->b, b)},
        {DNNL_ARG_DST, memory(state_->c, c)},
        {DNNL_ARG_SCRATCHPAD, memory(state_->scratch, scratch)}};
    if (state_->shape.has_bias) arguments.emplace(DNNL_ARG_BIAS, memory(state_->bias, bias));
    dnnl::stream stream(state_->engine);
    state_->primitive.execute(stream, arguments);
    stream.wait();
    return absl::OkStatus();
  } catch (const dnnl::error& error) {
    return Failure(error, state_->shape);
  }
}

void OnednnProducts::StartKernel() {
  if (products_.size() > kMost) products_.clear();
}

absl::StatusOr<const OnednnProduct*> OnednnProducts::Get(const OnednnShape& shape) {
  auto& product = products_[shape];
  if (product == nullptr) {
    auto made = OnednnProduct::Create(shape);
    if (!made.ok()) {
      products_.erase(shape);
      return made.status();
    }
    product = std::move(made).value();
  }
  return product.get();
}

std::string OnednnRefuses(DType wanted, DType a, DType b, DType c) {
  if (a != wanted || b != wanted) return absl::StrCat("operands are not both ", Name(wanted));
  if (c != wanted && c != DType::kF32) return absl::StrCat("output is ", Name(c));
  if (wanted == DType::kBf16) {
    constexpr auto kNeeded = static_cast<unsigned>(dnnl::cpu_isa::avx512_core_bf16);
    const auto found = static_cast<unsigned>(dnnl::get_effective_cpu_isa());
    if ((found & kNeeded) != kNeeded) return "the processor lacks AVX512_BF16";
  }
  return "";
}

namespace {

std::string Accepts(DType wanted, const MatmulArgs& args) {
  std::string reason = OnednnRefuses(wanted, args.a.dtype, args.b.dtype, args.c.dtype);
  if (!reason.empty()) return reason;
  const bool transposed = args.transpose_a == Transpose::kYes;
  if ((transposed ? args.a.rows : args.a.columns) == 0) return "the inner size is 0";
  if (args.bias && args.bias.dtype != DType::kF32 && args.bias.dtype != wanted) {
    return absl::StrCat("bias is ", Name(args.bias.dtype));
  }
  return "";
}

// c is cut into `size` rows or columns at a time.
enum class Cut { kRows, kColumns };

}  // namespace

std::string AcceptsOnednnBf16Matmul(const MatmulArgs& args) { return Accepts(DType::kBf16, args); }
std::string AcceptsOnednnF32Matmul(const MatmulArgs& args) { return Accepts(DType::kF32, args); }

absl::Status OnednnMatmul(Execution& execution, const MatmulArgs& args) {
  // Below this many products a second thread costs more than it brings.
  constexpr int64_t kProductsPerPart = 1 << 19;
  constexpr int64_t kPartSize = 256;
  constexpr int64_t kTile = 64;  // whole register tiles of every instruction set
  const bool a_transposed = args.transpose_a == Transpose::kYes;
  const bool b_transposed = args.transpose_b == Transpose::kYes;
  const OnednnShape whole = {.m = args.c.rows,
                             .n = args.c.columns,
                             .k = a_transposed ? args.a.rows : args.a.columns,
                             .operands = args.a.dtype,
                             .output = args.c.dtype,
                             .a_stride = args.a.row_stride,
                             .b_stride = args.b.row_stride,
                             .c_stride = args.c.row_stride,
                             .transpose_a = args.transpose_a,
                             .transpose_b = args.transpose_b,
                             .accumulate = args.accumulate,
                             .has_bias = static_cast<bool>(args.bias),
                             .bias = args.bias.dtype};
  // Parts depend on the shape alone: oneDNN blocks the inner sum by the sizes it is asked for, so
  // parts that followed the number of threads would change bits with it.
  const Cut cut = whole.m >= whole.n ? Cut::kRows : Cut::kColumns;
  const int64_t size = cut == Cut::kRows ? whole.m : whole.n;
  const int64_t wanted = whole.m * whole.n * whole.k < 2 * kProductsPerPart
                             ? 1
                             : std::max<int64_t>(2, DividedUp(size, kPartSize));
  const int64_t part = wanted == 1 ? size : DividedUp(DividedUp(size, wanted), kTile) * kTile;
  const int64_t parts = DividedUp(size, part);

  auto& cache = execution.Cache<OnednnProducts>();
  cache.StartKernel();
  const auto product_of = [&](int64_t count) {
    OnednnShape shape = whole;
    (cut == Cut::kRows ? shape.m : shape.n) = count;
    return cache.Get(shape);
  };
  PLAIT_ASSIGN_OR_RETURN(const OnednnProduct* full, product_of(part));
  PLAIT_ASSIGN_OR_RETURN(const OnednnProduct* last, product_of(size - (parts - 1) * part));
  const size_t scratch_bytes = std::max(full->scratch_bytes(), last->scratch_bytes());
  const auto threads = static_cast<int>(std::min<int64_t>(parts, execution.num_threads()));
  const std::shared_ptr<void> scratch =
      execution.allocator().Allocate(static_cast<size_t>(threads) * scratch_bytes);

  std::vector<absl::Status> statuses(static_cast<size_t>(parts));
#pragma omp parallel for num_threads(threads) schedule(static, 1)
  for (int64_t i = 0; i < parts; ++i) {
    const int64_t row = cut == Cut::kRows ? i * part : 0;
    const int64_t column = cut == Cut::kColumns ? i * part : 0;
    const void* c = Advance(args.c.data, args.c.dtype, row * args.c.row_stride + column);
    statuses[static_cast<size_t>(i)] =
        (i + 1 < parts ? full : last)
            ->Run(Advance(args.a.data, args.a.dtype, a_transposed ? row : row * args.a.row_stride),
                  Advance(args.b.data, args.b.dtype,
                          b_transposed ? column * args.b.row_stride : column),
                  Advance(args.bias.data, args.bias.dtype, column), const_cast<void*>(c),
                  static_cast<char*>(scratch.get()) +
                      static_cast<size_t>(omp_get_thread_num()) * scratch_bytes);
  }
  for (const absl::Status& status : statuses) PLAIT_RETURN_IF_ERROR(status);
  return absl::OkStatus();
}

}  // namespace plait::cpu
