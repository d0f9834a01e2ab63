#include "base/tensor.h"

#include <cstdlib>
#include <cstring>

#include "base/allocator.h"

namespace plait {
namespace {

double ToDouble(const Tensor& tensor, int64_t i) {
  switch (tensor.dtype()) {
    case DType::kBf16:
      return static_cast<double>(tensor.data<BFloat16>()[i]);
    case DType::kF16:
      return static_cast<double>(tensor.data<Float16>()[i]);
    case DType::kF32:
      return tensor.data<float>()[i];
    case DType::kF64:
      return tensor.data<double>()[i];
    default:
      PLAIT_CHECK(false);
      return 0;
  }
}

}  // namespace

Tensor Tensor::Empty(Allocator& allocator, DType dtype, const Shape& shape) {
  Tensor tensor;
  tensor.dtype_ = dtype;
  tensor.shape_ = shape;
  tensor.storage_ = allocator.Allocate(static_cast<size_t>(shape.num_elements()) * SizeOf(dtype));
  tensor.on_device_ = !allocator.is_host();
  return tensor;
}

Tensor Tensor::Zeros(Allocator& allocator, DType dtype, const Shape& shape) {
  Tensor tensor = Empty(allocator, dtype, shape);
  tensor.FillZero();
  return tensor;
}

Tensor Tensor::OnHost(DType dtype, const Shape& shape) {
  Tensor tensor;
  tensor.dtype_ = dtype;
  tensor.shape_ = shape;
  tensor.storage_ = AllocateZeroed(static_cast<size_t>(shape.num_elements()) * SizeOf(dtype));
  return tensor;
}

Tensor Tensor::Over(std::shared_ptr<void> storage, size_t offset_bytes, DType dtype,
                    const Shape& shape) {
  Tensor tensor;
  tensor.storage_ = std::move(storage);
  tensor.offset_bytes_ = offset_bytes;
  tensor.dtype_ = dtype;
  tensor.shape_ = shape;
  return tensor;
}

Tensor Tensor::Slice(int64_t begin, int64_t end) const {
  PLAIT_CHECK(shape_.rank() >= 1 && begin >= 0 && begin <= end && end <= shape_[0]);
  Tensor tensor = *this;
  std::array<int64_t, Shape::kMaxRank> sizes{};
  std::copy(shape_.sizes().begin(), shape_.sizes().end(), sizes.begin());
  const int64_t row = shape_[0] == 0 ? 0 : shape_.num_elements() / shape_[0];
  sizes[0] = end - begin;
  tensor.shape_ = Shape(std::span<const int64_t>(sizes.data(), shape_.rank()));
  tensor.offset_bytes_ += static_cast<size_t>(begin * row) * SizeOf(dtype_);
  return tensor;
}

Tensor Tensor::Reshape(const Shape& shape) const {
  PLAIT_CHECK_EQ(shape.num_elements(), shape_.num_elements());
  Tensor tensor = *this;
  tensor.shape_ = shape;
  return tensor;
}

Tensor Tensor::Flat(int64_t element_offset, const Shape& shape) const {
  PLAIT_CHECK(element_offset >= 0 &&
              element_offset + shape.num_elements() <= shape_.num_elements());
  Tensor tensor = *this;
  tensor.shape_ = shape;
  tensor.offset_bytes_ += static_cast<size_t>(element_offset) * SizeOf(dtype_);
  return tensor;
}

Tensor Tensor::Clone() const {
  if (!storage_) return {};
  PLAIT_CHECK(!on_device_);
  Tensor copy = OnHost(dtype_, shape_);
  std::memcpy(copy.raw(), raw(), bytes());
  return copy;
}

Tensor Tensor::Converted(DType dtype) const {
  PLAIT_CHECK(!on_device_);
  Tensor copy = OnHost(dtype, shape_);
  for (int64_t i = 0; i < num_elements(); ++i) {
    const double value = ToDouble(*this, i);
    switch (dtype) {
      case DType::kBf16:
        copy.data<BFloat16>()[i] = BFloat16(value);
        break;
      case DType::kF32:
        copy.data<float>()[i] = static_cast<float>(value);
        break;
      case DType::kF64:
        copy.data<double>()[i] = value;
        break;
      default:
        PLAIT_CHECK(false);
    }
  }
  return copy;
}

void Tensor::FillZero() {
  PLAIT_CHECK(!on_device_);
  if (storage_) std::memset(raw(), 0, bytes());
}

MatrixView Tensor::matrix() {
  const int64_t columns = shape_.rank() == 0 ? 1 : shape_[shape_.rank() - 1];
  return {raw(), dtype_, columns == 0 ? 0 : shape_.num_elements() / columns, columns, columns};
}

ConstMatrixView Tensor::matrix() const { return const_cast<Tensor*>(this)->matrix(); }

MatrixView Tensor::columns(int64_t begin, int64_t columns) {
  MatrixView view = matrix();
  PLAIT_CHECK(begin >= 0 && begin + columns <= view.columns);
  view.data = static_cast<char*>(view.data) + static_cast<size_t>(begin) * SizeOf(dtype_);
  view.columns = columns;
  return view;
}

ConstMatrixView Tensor::columns(int64_t begin, int64_t columns) const {
  return const_cast<Tensor*>(this)->columns(begin, columns);
}

VectorView Tensor::vector() { return {raw(), dtype_, num_elements()}; }
ConstVectorView Tensor::vector() const { return {raw(), dtype_, num_elements()}; }

}  // namespace plait
