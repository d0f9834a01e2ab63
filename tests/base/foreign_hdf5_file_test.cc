#include "base/foreign_hdf5_file.h"

#include <gtest/gtest.h>

#include <fstream>

#include "tests/support/status_matchers.h"
#include "tests/support/temporary_folder.h"

namespace plait {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// Written by h5py 3.16: group/compressed big-endian f32 [5, 7] = 0, 0.5, 1, ... in chunks with
// shuffle and gzip, group/half f16, scalar f64, bytes u8, text, an empty one, one of six dimensions
// and one of 4 TiB of which nothing is stored; attributes of every kind.
constexpr char kFile[] = "tests/base/fixtures/foreign.h5";

ForeignHdf5File OpenFixture() {
  auto file = ForeignHdf5File::Open(kFile);
  PLAIT_CHECK(file.ok());
  return *std::move(file);
}

TEST(ForeignHdf5FileTest, ReadsCompressedChunksOfAnotherByteOrder) {
  ASSERT_OK_AND_ASSIGN(const Tensor tensor, OpenFixture().Read("group/compressed", DType::kF32));
  EXPECT_EQ(tensor.shape(), Shape({5, 7}));
  for (int64_t i = 0; i < 35; ++i) EXPECT_EQ(tensor.data<float>()[i], static_cast<float>(i) / 2);
}

TEST(ForeignHdf5FileTest, WidensNumbersOfOtherWidths) {
  const ForeignHdf5File file = OpenFixture();
  ASSERT_OK_AND_ASSIGN(const Tensor half, file.Read("group/half", DType::kF64));
  EXPECT_EQ(half.shape(), Shape({1, 1, 2}));
  EXPECT_THAT(half.values<double>(), ElementsAre(1.5, -2.0));
  ASSERT_OK_AND_ASSIGN(const Tensor bytes, file.Read("bytes", DType::kI64));
  EXPECT_THAT(bytes.values<int64_t>(), ElementsAre(1, 2, 3, 250));
  ASSERT_OK_AND_ASSIGN(const Tensor real, file.Read("bytes", DType::kF32));
  EXPECT_THAT(real.values<float>(), ElementsAre(1, 2, 3, 250));
}

TEST(ForeignHdf5FileTest, AScalarHasNoDimensions) {
  ASSERT_OK_AND_ASSIGN(const Tensor scalar, OpenFixture().Read("scalar", DType::kF64));
  EXPECT_EQ(scalar.shape().rank(), 0);
  EXPECT_THAT(scalar.values<double>(), ElementsAre(0.1));
}

TEST(ForeignHdf5FileTest, ReadsAttributesOfEveryKind) {
  const ForeignHdf5File file = OpenFixture();
  EXPECT_EQ(*file.StringAttribute("variable"), "größe 7");
  EXPECT_EQ(*file.StringAttribute("fixed"), "abc");
  EXPECT_EQ(*file.StringAttribute("absent"), std::nullopt);
  EXPECT_EQ(*file.NumberAttribute("whole"), 7);
  EXPECT_EQ(*file.NumberAttribute("real"), 0.5);
  EXPECT_EQ(*file.NumberAttribute("one"), 3);
  EXPECT_EQ(*file.NumberAttribute("absent"), std::nullopt);
}

TEST(ForeignHdf5FileTest, NamesAttributesOfAnotherKind) {
  const ForeignHdf5File file = OpenFixture();
  EXPECT_THAT(file.NumberAttribute("two"),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("foreign.h5: attribute two: expected one number")));
  EXPECT_THAT(file.NumberAttribute("fixed"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("attribute fixed")));
  EXPECT_THAT(file.StringAttribute("whole"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("attribute whole")));
}

TEST(ForeignHdf5FileTest, ListsTheDatasetsOfAGroup) {
  const ForeignHdf5File file = OpenFixture();
  EXPECT_THAT(*file.DatasetsIn("group"), ElementsAre("group/compressed", "group/half"));
  EXPECT_THAT(*file.DatasetsIn("absent"), IsEmpty());
  EXPECT_TRUE(file.Has("group/half"));
  EXPECT_FALSE(file.Has("group/quarter"));
}

TEST(ForeignHdf5FileTest, NamesWhatItCannotRead) {
  const ForeignHdf5File file = OpenFixture();
  const auto refuses = [&file](const char* name, DType dtype, absl::StatusCode code,
                               const char* message) {
    EXPECT_THAT(file.Read(name, dtype), StatusIs(code, HasSubstr(message))) << name;
  };
  refuses("absent", DType::kF32, absl::StatusCode::kNotFound, "foreign.h5: no dataset absent");
  refuses("scalar", DType::kI64, absl::StatusCode::kInvalidArgument,
          "scalar: expected whole numbers");
  refuses("text", DType::kF32, absl::StatusCode::kInvalidArgument, "text: expected numbers");
  refuses("empty", DType::kF32, absl::StatusCode::kInvalidArgument, "empty: has no elements");
  refuses("six", DType::kF32, absl::StatusCode::kInvalidArgument,
          "six: expected at most 5 dimensions, found 6");
  refuses("huge", DType::kF32, absl::StatusCode::kInvalidArgument,
          "huge: [1048576, 1048576] is larger than 16 GiB");
  refuses("group", DType::kF32, absl::StatusCode::kDataLoss, "group: cannot be opened");
}

TEST(ForeignHdf5FileTest, RefusesWhatIsNoHdf5File) {
  TemporaryFolder folder;
  EXPECT_THAT(ForeignHdf5File::Open(folder.File("absent")),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("absent: no such file")));
  std::ofstream(folder.File("text")) << "not HDF5";
  EXPECT_THAT(ForeignHdf5File::Open(folder.File("text")),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("cannot be opened as HDF5")));
}

}  // namespace
}  // namespace plait
