#include "checkpoint/tensor_transfer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <map>
#include <mutex>

#include "absl/strings/str_cat.h"
#include "base/digest.h"
#include "base/status_macros.h"
#include "parallel/local_communicator.h"
#include "tests/support/random_tensor.h"
#include "tests/support/status_matchers.h"

namespace plait {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// Tensors in memory. Each target's bytes are kept by name, whoever wrote them.
class Memory {
 public:
  void Add(const std::string& name, Tensor values) {
    sources_.push_back({name,
                        SafetensorsDTypeFor(values.dtype()),
                        {values.shape().sizes().begin(), values.shape().sizes().end()}});
    values_.push_back(std::move(values));
  }
  const std::vector<SourceTensor>& sources() const { return sources_; }
  Tensor& values(size_t source) { return values_[source]; }
  void Plan(const std::vector<LogicalTensor>& wanted, const TensorPlanOptions& options) {
    const auto plan = PlanTensors(wanted, sources_, options);
    ASSERT_OK(plan);
    plan_ = *plan;
  }
  TensorPlan& plan() { return plan_; }

  absl::StatusOr<TransferDigests> Run(int ranks) {
    written_.clear();
    TransferDigests digests;
    PLAIT_RETURN_IF_ERROR(
        RunLocalRanks(ranks, [&](const std::shared_ptr<Communicator>& world) -> absl::Status {
          Reader reader(*this);
          Writer writer(*this);
          PLAIT_ASSIGN_OR_RETURN(const TransferDigests own,
                                 TransferTensors(*world, plan_, sources_, reader, writer, nullptr));
          if (world->rank() == 0) digests = own;
          return absl::OkStatus();
        }));
    return digests;
  }
  const std::map<std::string, std::string>& written() const { return written_; }
  // Writing this target fails.
  std::string failing;

 private:
  class Reader : public TensorReader {
   public:
    explicit Reader(Memory& memory) : memory_(memory) {}
    absl::StatusOr<std::shared_ptr<const void>> Read(size_t source, int64_t begin,
                                                     int64_t count) override {
      const Tensor& values = memory_.values_[source];
      auto piece = std::make_shared<Tensor>(
          values.Reshape({values.num_elements()}).Slice(begin, begin + count).Clone());
      return std::shared_ptr<const void>(piece, piece->raw());
    }

   private:
    Memory& memory_;
  };
  class Writer : public TensorWriter {
   public:
    explicit Writer(Memory& memory) : memory_(memory) {}
    absl::Status Write(size_t target, int64_t begin, int64_t count, const void* data) override {
      const PlannedTensor& tensor = memory_.plan_.targets[target];
      if (tensor.name == memory_.failing) return absl::ResourceExhaustedError("the disk is full");
      const std::lock_guard<std::mutex> lock(memory_.mutex_);
      std::string& bytes = memory_.written_[tensor.name];
      EXPECT_EQ(bytes.size(), static_cast<size_t>(begin) * SizeOf(tensor.dtype));
      bytes.append(static_cast<const char*>(data),
                   static_cast<size_t>(count) * SizeOf(tensor.dtype));
      return absl::OkStatus();
    }
    absl::Status End(size_t target, const std::string& digest) override {
      const std::lock_guard<std::mutex> lock(memory_.mutex_);
      const std::string& bytes = memory_.written_[memory_.plan_.targets[target].name];
      EXPECT_EQ(digest, DigestOf(bytes.data(), bytes.size()));
      return absl::OkStatus();
    }

   private:
    Memory& memory_;
  };

  std::vector<SourceTensor> sources_;
  std::vector<Tensor> values_;
  TensorPlan plan_;
  std::mutex mutex_;
  std::map<std::string, std::string> written_;
};

constexpr char kEmbedding[] = "model.embed_tokens.weight";

// Larger than a piece: three and a bit.
void AddLarge(Memory& memory) {
  memory.Add(kEmbedding, UniformTensor({3300, 1024}, /*seed=*/1, DType::kF32));
}

void AddExperts(Memory& memory) {
  for (const int expert : {0, 1, 2}) {
    for (const char* kind : {"up", "gate", "down"}) {
      memory.Add(absl::StrCat("f.experts.", expert, ".", kind, "_proj.weight"),
                 UniformTensor({4, 4}, /*seed=*/static_cast<uint64_t>(expert) + 10, DType::kF32));
    }
  }
}

const std::vector<LogicalTensor> kWanted = {{kEmbedding, {3300, 1024}},
                                            {"f.experts.gate_up_proj", {3, 8, 4}},
                                            {"f.experts.down_proj", {3, 4, 4}}};

TEST(TensorTransferTest, AnyNumberOfRanksMovesEveryElement) {
  Memory memory;
  AddLarge(memory);
  AddExperts(memory);
  memory.Plan(kWanted, {});
  ASSERT_OK_AND_ASSIGN(const TransferDigests one, memory.Run(1));
  const std::map<std::string, std::string> written = memory.written();
  const Tensor& large = memory.values(0);
  EXPECT_EQ(written.at(kEmbedding),
            std::string(static_cast<const char*>(large.raw()), large.bytes()));
  for (size_t i = 0; i < memory.sources().size(); ++i) {
    EXPECT_EQ(one.sources[i], DigestOf(memory.values(i).raw(), memory.values(i).bytes()));
  }
  for (const int ranks : {2, 3, 5}) {
    ASSERT_OK_AND_ASSIGN(const TransferDigests many, memory.Run(ranks));
    EXPECT_EQ(many.sources, one.sources);
    EXPECT_EQ(many.targets, one.targets);
    EXPECT_EQ(memory.written(), written);
  }
}

TEST(TensorTransferTest, DealsGroupsByBytes) {
  Memory memory;
  AddLarge(memory);
  AddExperts(memory);
  memory.Plan(kWanted, {});
  const TransferDeal deal = DealTransfer(memory.plan(), memory.sources(), 3);
  EXPECT_THAT(deal.rank_of_target, ElementsAre(0, 1, 2));
  EXPECT_THAT(deal.bytes_of_rank, ElementsAre(3300 * 1024 * 4, 6 * 64, 3 * 64));
  EXPECT_THAT(deal.rank_of_source, ElementsAre(0, 1, 1, 2, 1, 1, 2, 1, 1, 2));
}

TEST(TensorTransferTest, ConvertsInPiecesAndNamesTheElementThatDoesNotFit) {
  Memory memory;
  AddLarge(memory);
  memory.Plan({kWanted.begin(), kWanted.begin() + 1}, {.dtype = DType::kF16});
  ASSERT_OK(memory.Run(1));
  const std::string& bytes = memory.written().at(kEmbedding);
  ASSERT_EQ(bytes.size(), size_t{3300 * 1024 * 2});
  const float* wide = memory.values(0).data<float>();
  for (int64_t i = 0; i < 3300 * 1024; ++i) {
    Float16 half;
    std::memcpy(&half, bytes.data() + 2 * i, 2);
    ASSERT_EQ(half.bits, Float16(wide[i]).bits) << i;
  }
  memory.values(0).data<float>()[3000000] = 1e5f;
  EXPECT_THAT(memory.Run(1),
              StatusIs(absl::StatusCode::kOutOfRange,
                       HasSubstr("model.embed_tokens.weight: element 3000000: 100000 is outside")));
}

TEST(TensorTransferTest, AWriteThatFailsEndsIt) {
  Memory memory;
  AddLarge(memory);
  AddExperts(memory);
  memory.Plan(kWanted, {});
  for (const LogicalTensor& tensor : kWanted) {
    memory.failing = tensor.name;
    for (const int ranks : {1, 3}) {
      EXPECT_THAT(memory.Run(ranks),
                  StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("the disk is full")));
    }
  }
}

TEST(TensorTransferTest, ACopyMustHaveTheSameBytes) {
  Memory memory;
  AddLarge(memory);
  memory.Add("lm_head.weight", memory.values(0).Clone());
  memory.Plan({kWanted.begin(), kWanted.begin() + 1}, {});
  ASSERT_OK_AND_ASSIGN(const TransferDigests digests, memory.Run(2));
  EXPECT_EQ(digests.sources[0], digests.sources[1]);
  memory.values(1).data<float>()[3300 * 1024 - 1] += 1;
  EXPECT_THAT(memory.Run(2), StatusIs(absl::StatusCode::kFailedPrecondition,
                                      HasSubstr("lm_head.weight: differs from model.embed")));
}

}  // namespace
}  // namespace plait
