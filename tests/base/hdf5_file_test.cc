#include "base/hdf5_file.h"

#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <numeric>

#include "base/digest.h"
#include "base/durable_file.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temporary_folder.h"

namespace plait {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::vector<float> Ramp(int64_t count) {
  std::vector<float> values(static_cast<size_t>(count));
  std::iota(values.begin(), values.end(), 0.5f);
  return values;
}

void FlipByte(const std::string& path, int64_t offset) {
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  file.seekg(offset);
  const char byte = static_cast<char>(file.get() ^ 0x10);
  file.seekp(offset);
  file.put(byte);
}

template <class T>
void ExpectRoundTrip(Hdf5Layout layout, const std::vector<T>& values) {
  TemporaryFolder folder;
  const std::string path = folder.File("a.h5");
  ASSERT_OK_AND_ASSIGN(Hdf5File writer, Hdf5File::Create(path));
  ASSERT_OK(writer.Write<T>("group/values", values, layout));
  ASSERT_OK(writer.Close());
  ASSERT_OK_AND_ASSIGN(const Hdf5File reader, Hdf5File::Open(path));
  ASSERT_OK_AND_ASSIGN(const std::vector<T> read, reader.Read<T>("group/values"));
  EXPECT_EQ(DigestOf(read.data(), read.size() * sizeof(T)),
            DigestOf(values.data(), values.size() * sizeof(T)));
}

TEST(Hdf5FileTest, EveryTypeReadsBackInBothLayouts) {
  for (Hdf5Layout layout : {Hdf5Layout::kContiguous, Hdf5Layout::kChunkedWithChecksum}) {
    ExpectRoundTrip<Float16>(layout, {Float16(1.5f), Float16(-2.0f), Float16(65504.0f)});
    ExpectRoundTrip<BFloat16>(layout, {BFloat16(1.5f), BFloat16(-2.0f), BFloat16(3e38f)});
    ExpectRoundTrip<float>(layout, {1.5f, -0.0f, 1e-40f});
    ExpectRoundTrip<double>(layout, {1.0 / 3.0, -1e300});
    ExpectRoundTrip<uint8_t>(layout, {0, 255});
    ExpectRoundTrip<uint16_t>(layout, {0, 65535});
    ExpectRoundTrip<uint32_t>(layout, {0, 4294967295u});
    ExpectRoundTrip<int32_t>(layout, {-2147483647, 7});
    ExpectRoundTrip<int64_t>(layout, {INT64_MIN, INT64_MAX});
    ExpectRoundTrip<float>(layout, {});
  }
}

TEST(Hdf5FileTest, RangesAreReadAndWrittenAcrossChunks) {
  TemporaryFolder folder;
  const std::string path = folder.File("a.h5");
  const int64_t count = 700'001;  // three chunks of 262,144 floats
  const std::vector<float> values = Ramp(count);
  ASSERT_OK_AND_ASSIGN(Hdf5File writer, Hdf5File::Create(path));
  ASSERT_OK(writer.CreateDataset("x", Hdf5Type::kF32, count, Hdf5Layout::kChunkedWithChecksum));
  for (int64_t begin = 0; begin < count; begin += 100'000) {
    ASSERT_OK(writer.WriteRange("x", Hdf5Type::kF32, begin,
                                std::min<int64_t>(100'000, count - begin), &values[begin]));
  }
  ASSERT_OK(writer.Close());
  ASSERT_OK_AND_ASSIGN(const Hdf5File reader, Hdf5File::Open(path));
  std::vector<float> part(300'000);
  ASSERT_OK(reader.ReadRange("x", Hdf5Type::kF32, 250'000, 300'000, part.data()));
  EXPECT_TRUE(std::equal(part.begin(), part.end(), values.begin() + 250'000));
}

TEST(Hdf5FileTest, ContiguousOffsetLeadsToTheBytes) {
  TemporaryFolder folder;
  const std::string path = folder.File("a.h5");
  const std::vector<float> values = Ramp(1000);
  ASSERT_OK_AND_ASSIGN(Hdf5File writer, Hdf5File::Create(path));
  ASSERT_OK(writer.Write<uint8_t>("small", std::vector<uint8_t>(3), Hdf5Layout::kContiguous));
  ASSERT_OK(writer.Write<float>("x", values, Hdf5Layout::kContiguous));
  ASSERT_OK(writer.Write<float>("chunked", values, Hdf5Layout::kChunkedWithChecksum));
  ASSERT_OK(writer.Close());
  ASSERT_OK_AND_ASSIGN(const Hdf5File reader, Hdf5File::Open(path));
  ASSERT_OK_AND_ASSIGN(const int64_t offset, reader.ContiguousOffset("x"));
  ASSERT_OK_AND_ASSIGN(const std::string bytes, ReadWholeFile(path, 1 << 20));
  EXPECT_EQ(bytes.substr(static_cast<size_t>(offset), 4000),
            std::string(reinterpret_cast<const char*>(values.data()), 4000));
  EXPECT_THAT(
      reader.ContiguousOffset("chunked"),
      StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("a.h5: chunked: not contiguous")));
}

TEST(Hdf5FileTest, SameContentGivesTheSameBytesAtAnotherTime) {
  TemporaryFolder folder;
  for (const char* name : {"a.h5", "b.h5"}) {
    ASSERT_OK_AND_ASSIGN(Hdf5File writer, Hdf5File::Create(folder.File(name)));
    ASSERT_OK(writer.Write<float>("group/inner/x", Ramp(1000), Hdf5Layout::kContiguous));
    ASSERT_OK(writer.Write<float>("y", Ramp(1000), Hdf5Layout::kChunkedWithChecksum));
    ASSERT_OK(writer.SetAttribute("/", "count", int64_t{5}));
    ASSERT_OK(writer.Close());
    sleep(1);  // the resolution of HDF5's times is one second
  }
  EXPECT_EQ(*DigestOfFile(folder.File("a.h5")), *DigestOfFile(folder.File("b.h5")));
}

TEST(Hdf5FileTest, AttributesReadBack) {
  TemporaryFolder folder;
  const std::string path = folder.File("a.h5");
  ASSERT_OK_AND_ASSIGN(Hdf5File writer, Hdf5File::Create(path));
  ASSERT_OK(writer.Write<float>("x", Ramp(3), Hdf5Layout::kContiguous));
  ASSERT_OK(writer.SetAttribute("/", "count", int64_t{-5}));
  ASSERT_OK(writer.SetAttribute("/", "ratio", 0.1));
  ASSERT_OK(writer.SetAttribute("x", "name", "größe"));
  ASSERT_OK(writer.SetAttribute("x", "empty", ""));
  ASSERT_OK(writer.SetAttribute("x", "long", std::string(100'000, 'a')));
  ASSERT_OK(writer.SetAttribute("x", "shape", std::vector<int64_t>{2, 3}));
  EXPECT_THAT(writer.SetAttribute("/", "count", int64_t{1}),
              StatusIs(absl::StatusCode::kAlreadyExists, HasSubstr("attribute count")));
  ASSERT_OK(writer.Close());
  ASSERT_OK_AND_ASSIGN(const Hdf5File reader, Hdf5File::Open(path));
  EXPECT_EQ(*reader.IntegerAttribute("/", "count"), -5);
  EXPECT_EQ(*reader.RealAttribute("/", "ratio"), 0.1);
  EXPECT_EQ(*reader.StringAttribute("x", "name"), "größe");
  EXPECT_EQ(*reader.StringAttribute("x", "empty"), "");
  EXPECT_EQ(*reader.StringAttribute("x", "long"), std::string(100'000, 'a'));
  EXPECT_THAT(*reader.IntegersAttribute("x", "shape"), ElementsAre(2, 3));
  EXPECT_THAT(reader.IntegerAttribute("/", "absent"),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("absent")));
  EXPECT_THAT(reader.IntegerAttribute("x", "shape"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("shape")));
  EXPECT_THAT(reader.IntegerAttribute("x", "name"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("name")));
}

TEST(Hdf5FileTest, DatasetsAreListedByName) {
  TemporaryFolder folder;
  const std::string path = folder.File("a.h5");
  ASSERT_OK_AND_ASSIGN(Hdf5File writer, Hdf5File::Create(path));
  const std::vector<BFloat16> values(4);
  ASSERT_OK(
      writer.Write<BFloat16>("b/model.layers.0.weight", values, Hdf5Layout::kChunkedWithChecksum));
  ASSERT_OK(writer.Write<float>("a", Ramp(2), Hdf5Layout::kContiguous));
  ASSERT_OK(writer.Close());
  ASSERT_OK_AND_ASSIGN(const Hdf5File reader, Hdf5File::Open(path));
  ASSERT_OK_AND_ASSIGN(const std::vector<Hdf5Dataset> datasets, reader.Datasets());
  ASSERT_EQ(datasets.size(), 2u);
  EXPECT_EQ(datasets[0].name, "a");
  EXPECT_EQ(datasets[1].name, "b/model.layers.0.weight");
  EXPECT_EQ(datasets[1].type, Hdf5Type::kBf16);
  EXPECT_EQ(datasets[1].num_elements, 4);
}

TEST(Hdf5FileTest, MisuseNamesFileAndDataset) {
  TemporaryFolder folder;
  const std::string path = folder.File("a.h5");
  ASSERT_OK_AND_ASSIGN(Hdf5File writer, Hdf5File::Create(path));
  ASSERT_OK(writer.Write<float>("x", Ramp(3), Hdf5Layout::kContiguous));
  EXPECT_THAT(writer.Write<float>("x", Ramp(3), Hdf5Layout::kContiguous),
              StatusIs(absl::StatusCode::kAlreadyExists, HasSubstr("a.h5: x")));
  EXPECT_THAT(writer.Write<float>("/x", Ramp(3), Hdf5Layout::kContiguous),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("'/x'")));
  EXPECT_THAT(writer.Read<float>("x"),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("reading")));
  ASSERT_OK(writer.Close());
  EXPECT_THAT(writer.Close(),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("not open")));
  EXPECT_THAT(Hdf5File::Create(path),
              StatusIs(absl::StatusCode::kAlreadyExists, HasSubstr("a.h5")));
  EXPECT_THAT(Hdf5File::Create(folder.File("no/a.h5")),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("no/a.h5")));
  EXPECT_THAT(Hdf5File::Open(folder.File("b.h5")),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("b.h5")));
  ASSERT_OK_AND_ASSIGN(Hdf5File reader, Hdf5File::Open(path));
  EXPECT_THAT(reader.Read<float>("y"),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("a.h5: no dataset y")));
  EXPECT_THAT(reader.Read<double>("x"),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("x: expected elements of f64, found f32")));
  float value = 0;
  EXPECT_THAT(reader.ReadRange("x", Hdf5Type::kF32, 3, 1, &value),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("[3, 4) are outside its 3")));
  EXPECT_THAT(reader.Write<float>("z", Ramp(1), Hdf5Layout::kContiguous),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("writing")));
}

TEST(Hdf5FileTest, DamagedFilesAreRefused) {
  TemporaryFolder folder;
  const std::string path = folder.File("a.h5");
  ASSERT_OK_AND_ASSIGN(Hdf5File writer, Hdf5File::Create(path));
  ASSERT_OK(writer.Write<float>("x", Ramp(100'000), Hdf5Layout::kChunkedWithChecksum));
  ASSERT_OK(writer.Close());
  const int64_t size = static_cast<int64_t>(std::filesystem::file_size(path));

  FlipByte(path, size / 2);
  ASSERT_OK_AND_ASSIGN(Hdf5File reader, Hdf5File::Open(path));
  EXPECT_THAT(reader.Read<float>("x"),
              StatusIs(absl::StatusCode::kDataLoss,
                       HasSubstr("a.h5: x: cannot be read: data error detected by Fletcher32")));
  ASSERT_OK(reader.Close());

  std::filesystem::resize_file(path, static_cast<uintmax_t>(size - 1));
  EXPECT_THAT(Hdf5File::Open(path),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("a.h5: cannot be opened as HDF5")));
  ASSERT_OK(WriteFileDurably(path, "plain text"));
  EXPECT_THAT(Hdf5File::Open(path), StatusIs(absl::StatusCode::kDataLoss, HasSubstr("a.h5")));
}

TEST(Hdf5FileTest, FileLeftOpenByADeadProcessIsRefused) {
  TemporaryFolder folder;
  const std::string path = folder.File("a.h5");
  const pid_t child = fork();
  if (child == 0) {
    absl::StatusOr<Hdf5File> writer = Hdf5File::Create(path);
    writer->Write<float>("x", Ramp(100'000), Hdf5Layout::kContiguous).IgnoreError();
    kill(getpid(), SIGKILL);
  }
  int state = 0;
  waitpid(child, &state, 0);
  ASSERT_TRUE(WIFSIGNALED(state));
  EXPECT_THAT(Hdf5File::Open(path), StatusIs(absl::StatusCode::kDataLoss, HasSubstr("a.h5")));
}

// A limit on the size of files stands for a full disk: the write fails in the same place. The child
// must come to a normal exit: no hang in closing, no crash in an exit handler.
TEST(Hdf5FileTest, FailedWriteIsReportedOnceForAllAndNeverHangs) {
  for (Hdf5Layout layout : {Hdf5Layout::kContiguous, Hdf5Layout::kChunkedWithChecksum}) {
    TemporaryFolder folder;
    const std::string path = folder.File("a.h5");
    const pid_t child = fork();
    if (child == 0) {
      alarm(20);
      std::signal(SIGXFSZ, SIG_IGN);
      const rlimit limit{1 << 20, 1 << 20};
      setrlimit(RLIMIT_FSIZE, &limit);
      absl::StatusOr<Hdf5File> writer = Hdf5File::Create(path);
      absl::Status first = writer->Write<float>("x", Ramp(3'000'000), layout);
      absl::Status second = writer->Write<float>("y", Ramp(3), layout);
      absl::Status close = writer->Close();
      const bool named =
          first.message().find("a.h5: x: write failed: File too large") != std::string::npos;
      writer = absl::UnavailableError("");
      std::exit(first.code() == absl::StatusCode::kResourceExhausted && named && second == first &&
                        close == first
                    ? 0
                    : 1);
    }
    int state = 0;
    waitpid(child, &state, 0);
    ASSERT_TRUE(WIFEXITED(state));
    EXPECT_EQ(WEXITSTATUS(state), 0);
  }
}

}  // namespace
}  // namespace plait
