#include "checkpoint/shard_description.h"

#include "tests/support/status_matchers.h"

namespace plait {
namespace {

using ::testing::HasSubstr;

StoredTensor Stored(const std::string& name, DType dtype, const ShardSpec& spec) {
  return {.name = name,
          .dtype = dtype,
          .spec = spec,
          .num_elements = spec.elements.end - spec.elements.begin,
          .digest = "0123456789abcdef0123456789abcdef"};
}

TEST(ShardDescriptionTest, WhatIsAddedIsWhatWasDescribed) {
  ShardSpec cut = ShardSpec::Part(Shape({12, 5}), /*dim=*/0, /*segments=*/2, /*part=*/1,
                                  /*parts=*/3);
  cut.elements = {3, 17};
  const std::vector<StoredTensor> tensors = {
      Stored("cut", DType::kBf16, cut), Stored("scalar", DType::kF64, ShardSpec::Whole(Shape()))};
  DescribedFiles read;
  ASSERT_OK(AddDescribedFiles(BytesOf({{4, tensors}, {7, {}}}), read));
  ASSERT_OK(AddDescribedFiles(BytesOf({{5, {tensors[1]}}}), read));
  ASSERT_EQ(read.size(), 3u);
  EXPECT_TRUE(read.at(7).empty());
  EXPECT_EQ(read.at(5).size(), 1u);
  ASSERT_EQ(read.at(4).size(), tensors.size());
  for (size_t i = 0; i < tensors.size(); ++i) {
    const StoredTensor& found = read.at(4)[i];
    EXPECT_EQ(found.name, tensors[i].name);
    EXPECT_EQ(found.dtype, tensors[i].dtype);
    EXPECT_EQ(found.spec, tensors[i].spec);
    EXPECT_EQ(found.num_elements, tensors[i].num_elements);
    EXPECT_EQ(found.digest, tensors[i].digest);
  }
}

TEST(ShardDescriptionTest, OtherBytesAreRefused) {
  DescribedFiles files;
  EXPECT_THAT(AddDescribedFiles("\xff\xff", files),
              StatusIs(absl::StatusCode::kInternal, HasSubstr("did not arrive whole")));
}

}  // namespace
}  // namespace plait
