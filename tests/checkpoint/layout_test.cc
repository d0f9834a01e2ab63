// Checkpoints of one layout of ranks loaded under another, and failures of one rank among several.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <functional>
#include <mutex>

#include "base/exit_code.h"
#include "base/status_macros.h"
#include "checkpoint/checkpoint_reader.h"
#include "checkpoint/checkpoint_writer.h"
#include "parallel/device_mesh.h"
#include "parallel/local_communicator.h"
#include "parallel/parameter_sharder.h"
#include "parallel/status_agreement.h"
#include "tests/support/checkpoint_content.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/tensor_matchers.h"

namespace plait {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

struct Layout {
  int64_t replicate = 1;
  int64_t shard = 1;
  int ranks() const { return static_cast<int>(replicate * shard); }
  std::string name() const { return absl::StrCat(replicate, " x ", shard); }
};

constexpr Layout kLayouts[] = {{1, 1}, {1, 2}, {2, 1}, {2, 2}, {1, 3}, {1, 4}};
constexpr int64_t kStep = 7;

using RankBody = std::function<absl::Status(Communicator&)>;

absl::Status OnRanks(int ranks, const RankBody& body) {
  return RunLocalRanks(ranks,
                       [&](const std::shared_ptr<Communicator>& world) { return body(*world); });
}

// What an element of a tensor is, whoever holds it.
float ValueOf(const std::string& name, int64_t element) {
  return static_cast<float>(name.size()) + 0.001f * static_cast<float>(element);
}

// Sizes that fill no tile, less than one and many; a unit of several parameters.
struct Model {
  std::vector<Parameter> parameters{{"odd", {7, 37}, DType::kBf16, {}, {}},
                                    {"scalar", {1}, DType::kBf16, {}, {}},
                                    {"scale", {129}, DType::kF32, {}, {}},
                                    {"large", {41, 5, 13}, DType::kF32, {}, {}}};
  std::vector<ParameterUnit> Units() {
    return {{"first", {&parameters[0], &parameters[1], &parameters[2]}},
            {"second", {&parameters[3]}}};
  }
};

// Calls `body` with the state of every rank of the layout: the masters, and a moment beside each.
absl::Status WithState(const Layout& layout,
                       const std::function<absl::Status(Communicator&, NamedState&)>& body) {
  return RunLocalRanks(layout.ranks(), [&](const std::shared_ptr<Communicator>& world) {
    return [&]() -> absl::Status {
      Execution execution({.num_threads = 1});
      PLAIT_ASSIGN_OR_RETURN(
          const DeviceMesh mesh,
          DeviceMesh::Create({1, layout.replicate, layout.shard, 1, 1, 1}, world));
      Model model;
      PLAIT_ASSIGN_OR_RETURN(const auto sharder,
                             ParameterSharder::Create(execution, mesh, model.Units()));
      NamedState state;
      sharder->AppendState(state);
      for (size_t i = 0, masters = state.tensors.size(); i < masters; ++i) {
        NamedTensor moment = state.tensors[i];
        moment.name = absl::StrCat("moment/", moment.name);
        moment.shard = Tensor::OnHost(DType::kF32, moment.shard.shape());
        state.tensors.push_back(std::move(moment));
      }
      state.integers["steps"] = 0;
      return body(*world, state);
    }();
  });
}

absl::StatusOr<std::string> SaveAll(Communicator& world, const std::string& folder,
                                    NamedState& state, int64_t step = kStep) {
  for (NamedTensor& tensor : state.tensors) {
    for (int64_t i = 0; i < tensor.shard.num_elements(); ++i) {
      tensor.shard.data<float>()[i] = ValueOf(tensor.name, tensor.spec.elements.begin + i);
    }
  }
  state.integers["steps"] = step;
  CheckpointContent content;
  content.description.step = step;
  content.state = state;
  return CheckpointWriter(world, folder, /*keep=*/3).Save(content);
}

absl::Status CheckValues(const NamedState& state) {
  for (const NamedTensor& tensor : state.tensors) {
    for (int64_t i = 0; i < tensor.shard.num_elements(); ++i) {
      const float expected = ValueOf(tensor.name, tensor.spec.elements.begin + i);
      const float found = tensor.shard.data<float>()[i];
      if (std::memcmp(&expected, &found, sizeof(float)) != 0) {
        return absl::DataLossError(absl::StrCat(tensor.name, "[", tensor.spec.elements.begin + i,
                                                "]: expected ", expected, ", found ", found));
      }
    }
  }
  return absl::OkStatus();
}

absl::Status LoadAll(Communicator& world, const std::string& folder, NamedState& state) {
  std::vector<RejectedCheckpoint> rejected;
  PLAIT_ASSIGN_OR_RETURN(const CheckpointReader reader,
                         OpenNewestCheckpoint(world, folder, &rejected));
  return reader.Load(UnaskedTensors::kRefuse, state);
}

class LayoutTest : public ::testing::Test {
 protected:
  absl::Status Save(const Layout& layout, int64_t step = kStep) {
    return WithState(layout, [&](Communicator& world, NamedState& state) {
      return SaveAll(world, checkpoints_, state, step).status();
    });
  }

  // What every one of `ranks` ranks answers when all call `body`, which must end alike on all.
  absl::Status AnswerOfAll(int ranks, const RankBody& body) {
    std::mutex mutex;
    std::vector<absl::Status> answers;
    EXPECT_OK(OnRanks(ranks, [&](Communicator& world) {
      const absl::Status answer = body(world);
      const std::lock_guard lock(mutex);
      answers.push_back(answer);
      return absl::OkStatus();
    }));
    for (const absl::Status& answer : answers) {
      EXPECT_EQ(std::string(answer.message()), std::string(answers[0].message()));
      EXPECT_EQ(ExitCodeOf(answer), ExitCodeOf(answers[0]));
      EXPECT_TRUE(answer.ok() || IsAgreed(answer)) << answer;
    }
    return answers[0];
  }

  std::string File(const std::string& name) const {
    return checkpoints_ + "/step-00000007/" + name;
  }
  bool HasTemporary(int64_t step) const {
    return std::filesystem::exists(absl::StrCat(checkpoints_, "/tmp.", CheckpointName(step)));
  }

  TemporaryFolder folder_;
  std::string checkpoints_ = folder_.File("checkpoints");
};

TEST_F(LayoutTest, LoadsUnderEveryOtherLayout) {
  for (const Layout& saved : kLayouts) {
    ASSERT_OK(Save(saved)) << saved.name();
    for (const Layout& loaded : kLayouts) {
      EXPECT_OK(WithState(loaded,
                          [&](Communicator& world, NamedState& state) -> absl::Status {
                            PLAIT_RETURN_IF_ERROR(LoadAll(world, checkpoints_, state));
                            if (state.integers["steps"] != kStep)
                              return absl::InternalError("the counter was not loaded");
                            return CheckValues(state);
                          }))
          << saved.name() << " to " << loaded.name();
    }
  }
}

TEST_F(LayoutTest, FourThenThreeThenOneKeepsEveryBit) {
  ASSERT_OK(Save({1, 4}));
  int64_t step = kStep;
  for (const Layout& layout : {Layout{1, 3}, Layout{1, 1}}) {
    ++step;
    ASSERT_OK(WithState(layout, [&](Communicator& world, NamedState& state) -> absl::Status {
      PLAIT_RETURN_IF_ERROR(LoadAll(world, checkpoints_, state));
      PLAIT_RETURN_IF_ERROR(CheckValues(state));
      CheckpointContent content;
      content.description.step = step;
      content.state = state;
      return CheckpointWriter(world, checkpoints_, /*keep=*/1).Save(content).status();
    }));
  }
  ASSERT_OK_AND_ASSIGN(const CheckpointReader reader,
                       CheckpointReader::Open(checkpoints_ + "/step-00000009"));
  EXPECT_EQ(reader.manifest().ranks, 1);
  EXPECT_OK(reader.VerifyTensors());
}

TEST_F(LayoutTest, EveryRankWritesAFileAndEveryElementIsStoredOnce) {
  for (const Layout& layout : kLayouts) {
    ASSERT_OK(Save(layout));
    ASSERT_OK_AND_ASSIGN(const CheckpointReader reader, CheckpointReader::Open(File("")));
    EXPECT_EQ(reader.manifest().ranks, layout.ranks());
    EXPECT_EQ(reader.manifest().files.size(), static_cast<size_t>(layout.ranks()));
    EXPECT_EQ(reader.tensors().size(), 8u);
    for (const auto& [name, parts] : reader.tensors()) {
      int64_t elements = 0;
      for (const auto& part : parts) {
        EXPECT_GT(part.stored->num_elements, 0) << name;
        elements += part.stored->num_elements;
      }
      EXPECT_EQ(elements, parts[0].stored->spec.logical_shape.num_elements()) << name;
    }
    EXPECT_OK(reader.VerifyTensors());
  }
}

// A checkpoint of thousands of ranks is read by as many: each opens what it reads. So ranks of the
// same layout need no file's name once the checkpoint is open, others do.
TEST_F(LayoutTest, RanksOpenOnlyTheFilesThatTheyRead) {
  ASSERT_OK(Save({1, 4}));
  const std::string there = checkpoints_ + "/step-00000007", away = folder_.File("away");
  const auto load = [&](const Layout& layout) {
    return WithState(layout, [&](Communicator& world, NamedState& state) -> absl::Status {
      PLAIT_ASSIGN_OR_RETURN(const CheckpointReader reader, CheckpointReader::Open(world, there));
      PLAIT_RETURN_IF_ERROR(world.Barrier());
      if (world.rank() == 0) std::filesystem::rename(there, away);
      PLAIT_RETURN_IF_ERROR(world.Barrier());
      const absl::Status loaded = reader.Load(UnaskedTensors::kRefuse, state);
      PLAIT_RETURN_IF_ERROR(world.Barrier());
      if (world.rank() == 0) std::filesystem::rename(away, there);
      PLAIT_RETURN_IF_ERROR(AgreeOnStatus(world, loaded));
      return CheckValues(state);
    });
  };
  EXPECT_OK(load({1, 4}));
  const absl::Status status = load({1, 3});
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kNotFound, HasSubstr("rank-0000")));
  EXPECT_EQ(ExitCodeOf(status), ExitCode::kBadCheckpoint);
}

TEST_F(LayoutTest, ReplicasShareTheSaving) {
  ASSERT_OK(Save({2, 1}));
  ASSERT_OK_AND_ASSIGN(const CheckpointReader reader, CheckpointReader::Open(File("")));
  const auto& parts = reader.tensors().at("parameters/large");
  ASSERT_EQ(parts.size(), 2u);
  EXPECT_EQ(parts[0].stored->spec.elements, (ShardSpec::Range{0, 1332}));
  EXPECT_EQ(parts[1].stored->spec.elements, (ShardSpec::Range{1332, 2665}));
}

// Column halves of a segmented matrix saved by two ranks, row halves of it loaded by three, with
// so many rows that elements are read in more than one piece.
TEST_F(LayoutTest, BoxesAreCutAnew) {
  const Shape shape({600, 3, 1000});
  const auto boxed = [&](int rank, int ranks) {
    ShardSpec spec = ShardSpec::Whole(shape);
    const auto half = [&](int64_t begin, int64_t size) {
      return ShardSpec::Range{begin + size * rank / ranks, begin + size * (rank + 1) / ranks};
    };
    if (ranks == 2) {
      spec.other_ranges[1] = half(0, 1000);
    } else {
      spec.dim0_ranges = {half(0, 300), half(300, 300)};
    }
    spec.elements = {0, spec.box_shape().num_elements()};
    return spec;
  };
  const auto state_of = [&](const ShardSpec& spec) {
    NamedState state;
    state.tensors.push_back(
        {"box", Tensor::OnHost(DType::kI32, {spec.elements.end - spec.elements.begin}), spec});
    return state;
  };
  // Element i of the tensor is i.
  const auto visit = [](const ShardSpec& spec, const auto& action) {
    for (const ShardRun& run : RunsOf(spec)) {
      for (int64_t i = 0; i < run.length; ++i) action(run.shard + i, run.logical + i);
    }
  };
  ASSERT_OK(OnRanks(2, [&](Communicator& world) {
    const ShardSpec spec = boxed(world.rank(), 2);
    CheckpointContent content;
    content.description.step = kStep;
    content.state = state_of(spec);
    int32_t* values = content.state.tensors[0].shard.data<int32_t>();
    visit(spec, [&](int64_t at, int64_t logical) { values[at] = static_cast<int32_t>(logical); });
    return CheckpointWriter(world, checkpoints_, /*keep=*/1).Save(content).status();
  }));
  EXPECT_OK(OnRanks(3, [&](Communicator& world) -> absl::Status {
    const ShardSpec spec = boxed(world.rank(), 3);
    NamedState state = state_of(spec);
    PLAIT_RETURN_IF_ERROR(LoadAll(world, checkpoints_, state));
    const int32_t* values = state.tensors[0].shard.data<int32_t>();
    int64_t wrong = 0;
    visit(spec, [&](int64_t at, int64_t logical) { wrong += values[at] != logical; });
    return wrong == 0 ? absl::OkStatus()
                      : absl::DataLossError(absl::StrCat(wrong, " elements are wrong"));
  }));
}

TEST_F(LayoutTest, ElementsThatNoFileHoldsAreNamedAndNothingIsWritten) {
  // The second rank's share of the tensor was never saved.
  CheckpointContent content = SmallContent(kStep);
  NamedTensor& tensor = content.state.tensors[0];
  tensor.spec.elements = {0, 640};
  tensor.shard = UniformTensor({640}, 5, DType::kF32);
  const auto world = MakeSingleRankCommunicator();
  ASSERT_OK(CheckpointWriter(*world, checkpoints_, /*keep=*/1).Save(content));
  ASSERT_OK_AND_ASSIGN(const CheckpointReader reader, CheckpointReader::Open(File("")));
  NamedState state = BlankOf(SmallContent(kStep).state);
  std::swap(state.tensors[0], state.tensors[1]);
  const absl::Status status = reader.Load(UnaskedTensors::kRefuse, state);
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kDataLoss,
                               AllOf(HasSubstr("parameters/model.embed_tokens.weight: element 640"),
                                     HasSubstr("rank-00000.h5"))));
  EXPECT_EQ(ExitCodeOf(status), ExitCode::kBadCheckpoint);
  for (float value : state.tensors[0].shard.values<float>()) EXPECT_EQ(value, 0.0f);
  EXPECT_THAT(reader.VerifyTensors(), StatusIs(absl::StatusCode::kDataLoss, HasSubstr("640")));
}

// Damages a file of a checkpoint of four ranks and opens it on three: the same refusal on all.
TEST_F(LayoutTest, ADamagedRankFileIsNamedOnEveryRank) {
  ASSERT_OK(Save({1, 4}));
  const std::string path = File("rank-00002.h5");
  const std::string kept = folder_.File("kept");
  std::filesystem::copy_file(path, kept);
  const auto expect_refused = [&](const std::string& what) {
    const absl::Status answer = AnswerOfAll(3, [&](Communicator& world) {
      return CheckpointReader::Open(world, checkpoints_ + "/step-00000007").status();
    });
    EXPECT_THAT(std::string(answer.message()), AllOf(HasSubstr("rank-00002.h5"), HasSubstr(what)));
    EXPECT_EQ(ExitCodeOf(answer), ExitCode::kBadCheckpoint);
    std::filesystem::copy_file(kept, path, std::filesystem::copy_options::overwrite_existing);
  };
  std::filesystem::remove(path);
  expect_refused("No such file");
  std::filesystem::resize_file(path, std::filesystem::file_size(path) - 1);
  expect_refused("bytes, found");
  // Of another run: of the right length, even.
  std::filesystem::copy_file(File("rank-00001.h5"), path,
                             std::filesystem::copy_options::overwrite_existing);
  std::filesystem::resize_file(path, std::filesystem::file_size(kept));
  expect_refused("damaged: expected digest");
  EXPECT_OK(AnswerOfAll(3, [&](Communicator& world) {
    return CheckpointReader::Open(world, checkpoints_ + "/step-00000007").status();
  }));
}

TEST_F(LayoutTest, AllRanksTakeTheSameOlderCheckpoint) {
  ASSERT_OK(Save({1, 2}, /*step=*/5));
  ASSERT_OK(Save({2, 2}, /*step=*/6));
  ASSERT_OK(Save({1, 4}, /*step=*/7));
  std::filesystem::resize_file(File("rank-00003.h5"), 100);
  std::filesystem::remove(checkpoints_ + "/step-00000006/manifest.textproto");
  for (const int ranks : {1, 2, 3}) {
    EXPECT_OK(OnRanks(ranks, [&](Communicator& world) -> absl::Status {
      std::vector<RejectedCheckpoint> rejected;
      PLAIT_ASSIGN_OR_RETURN(const CheckpointReader reader,
                             OpenCheckpointOrRun(world, checkpoints_, &rejected));
      if (reader.description().step == 5 && rejected.size() == 2 &&
          rejected[0].reason.find("rank-00003.h5") != std::string::npos) {
        return absl::OkStatus();
      }
      return absl::InternalError(absl::StrCat(reader.folder(), ", ", rejected.size()));
    }));
  }
}

TEST_F(LayoutTest, WithoutAnyThatVerifiesAllRanksEndAlike) {
  ASSERT_OK(Save({1, 2}));
  std::filesystem::remove(File("rank-00001.h5"));
  const absl::Status answer = AnswerOfAll(2, [&](Communicator& world) {
    std::vector<RejectedCheckpoint> rejected;
    return OpenNewestCheckpoint(world, checkpoints_, &rejected).status();
  });
  EXPECT_THAT(answer, StatusIs(absl::StatusCode::kNotFound, HasSubstr("none of its 1")));
  EXPECT_EQ(ExitCodeOf(answer), ExitCode::kBadCheckpoint);
}

TEST_F(LayoutTest, RanksThatSeeOtherCheckpointsAreTold) {
  ASSERT_OK(Save({1, 1}));
  // As where one host has not mounted the folder: the same path, something else there.
  EXPECT_OK(OnRanks(2, [&](Communicator& world) {
    std::vector<RejectedCheckpoint> rejected;
    const std::string folder = world.rank() == 0 ? checkpoints_ : folder_.File("elsewhere");
    const absl::Status answer = OpenNewestCheckpoint(world, folder, &rejected).status();
    EXPECT_THAT(answer, StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("of rank 1")));
    EXPECT_EQ(ExitCodeOf(answer), ExitCode::kBadCheckpoint);
    EXPECT_TRUE(IsAgreed(answer));
    return absl::OkStatus();
  }));
}

// A save that one rank cannot do its part of fails on all, keeps what was there and can be
// repeated.
class FailingSaveTest : public LayoutTest {
 protected:
  absl::Status FailingSave(const std::function<void(int, CheckpointContent&)>& spoil) {
    EXPECT_OK(Save({1, 3}, /*step=*/7));
    const absl::Status answer = AnswerOfAll(3, [&](Communicator& world) {
      CheckpointContent content;
      content.description.step = 8;
      content.state.tensors = {
          SmallTensor(absl::StrCat("of rank ", world.rank()), {9}, 1, DType::kF32)};
      spoil(world.rank(), content);
      return CheckpointWriter(world, checkpoints_, /*keep=*/3).Save(content).status();
    });
    EXPECT_FALSE(HasTemporary(8));
    EXPECT_FALSE(std::filesystem::exists(checkpoints_ + "/step-00000008"));
    EXPECT_OK(CheckpointReader::Open(checkpoints_ + "/step-00000007"));
    EXPECT_OK(Save({1, 3}, /*step=*/8));
    return answer;
  }
};

TEST_F(FailingSaveTest, AStateThatCannotBeWritten) {
  EXPECT_THAT(FailingSave([](int rank, CheckpointContent& content) {
                if (rank == 1) content.state.tensors.push_back(content.state.tensors[0]);
              }),
              StatusIs(absl::StatusCode::kAlreadyExists,
                       HasSubstr("rank 1: of rank 1: the name occurs twice")));
}

TEST_F(FailingSaveTest, AFileThatCannotBeWritten) {
  // HDF5 refuses a name that is a group already.
  EXPECT_THAT(FailingSave([](int rank, CheckpointContent& content) {
                if (rank != 2) return;
                content.state.tensors.push_back(SmallTensor("a/b", {3}, 1, DType::kF32));
                content.state.tensors.push_back(SmallTensor("a", {3}, 1, DType::kF32));
              }),
              StatusIs(absl::StatusCode::kAlreadyExists,
                       AllOf(HasSubstr("rank 2: "), HasSubstr("rank-00002.h5: a"))));
}

TEST_F(FailingSaveTest, AManifestThatCannotBePublished) {
  EXPECT_THAT(std::string(FailingSave([](int, CheckpointContent& content) {
                            content.attachments["absent/file"] = "x";
                          }).message()),
              AllOf(HasSubstr("rank 0: "), HasSubstr("absent/file")));
}

TEST_F(FailingSaveTest, CountersThatDiffer) {
  EXPECT_THAT(FailingSave([](int rank, CheckpointContent& content) {
                content.state.integers["steps"] = rank;
              }),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("of rank 1, 2")));
}

TEST_F(LayoutTest, AFolderThatCannotBeMadeFailsOnAllRanks) {
  ASSERT_OK(Save({1, 1}));
  const absl::Status answer = AnswerOfAll(2, [&](Communicator& world) {
    CheckpointContent content = SmallContent(1);
    return CheckpointWriter(world, File("manifest.textproto"), /*keep=*/1).Save(content).status();
  });
  EXPECT_THAT(std::string(answer.message()), HasSubstr("manifest.textproto/tmp.step-00000001"));
}

}  // namespace
}  // namespace plait
