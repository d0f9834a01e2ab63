#include "parallel/unconnected_mesh.h"

#include <algorithm>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/status_macros.h"

namespace plait {
namespace {

// A rank's wish in one Split.
struct Place {
  int color = 0;
  int key = 0;
};
// splits[i]: of the i-th Split of every rank, by rank.
using Splits = std::vector<std::vector<Place>>;

class UnconnectedCommunicator final : public Communicator {
 public:
  // What a Split makes of this rank's wish.
  using OnSplit = std::function<std::pair<int, int>(const Place& own)>;  // rank, size

  UnconnectedCommunicator(int rank, int size, const std::string& name,
                          std::shared_ptr<CollectiveLedger> ledger, OnSplit on_split)
      : Communicator(rank, size, name, std::move(ledger)), on_split_(std::move(on_split)) {}

  void Abort(std::string_view, int) override {}

 protected:
  absl::StatusOr<Event> DoAllGather(Stream&, ConstVectorView, VectorView) override {
    return Refused();
  }
  absl::StatusOr<Event> DoReduceScatter(Stream&, ConstVectorView, VectorView) override {
    return Refused();
  }
  absl::StatusOr<Event> DoAllReduce(Stream&, VectorView, ReduceOperation) override {
    return Refused();
  }
  absl::StatusOr<Event> DoBroadcast(Stream&, VectorView, int) override { return Refused(); }
  absl::StatusOr<Event> DoAllToAll(Stream&, ConstVectorView, std::span<const int64_t>, VectorView,
                                   std::span<const int64_t>) override {
    return Refused();
  }
  absl::StatusOr<Event> DoSend(Stream&, ConstVectorView, int) override { return Refused(); }
  absl::StatusOr<Event> DoReceive(Stream&, VectorView, int) override { return Refused(); }
  absl::Status DoBarrier() override { return Refused(); }
  absl::StatusOr<std::shared_ptr<Communicator>> DoSplit(int color, int key,
                                                        const std::string& name) override {
    if (!on_split_) return Refused();
    const auto [rank, size] = on_split_({color, key});
    return std::make_shared<UnconnectedCommunicator>(rank, size, name, shared_ledger(), nullptr);
  }
  absl::StatusOr<std::shared_ptr<void>> DoAllocateShared(size_t) override { return Refused(); }
  absl::Status ExchangeCalls(const CollectiveCall&, std::span<CollectiveCall>) override {
    return Refused();
  }

 private:
  static absl::Status Refused() {
    return absl::FailedPreconditionError("this mesh is for planning: its ranks do not run");
  }

  OnSplit on_split_;
};

}  // namespace

// Who is together with whom is what the mesh says: first every rank's Splits are written down, then
// they are answered for the one asked for.
absl::StatusOr<DeviceMesh> MakeUnconnectedMesh(const std::array<int64_t, kNumMeshAxes>& sizes,
                                               int64_t world_size, int64_t rank) {
  const std::shared_ptr<CollectiveLedger> ledger = CollectiveLedger::Single();
  const auto world = [&](int64_t of, UnconnectedCommunicator::OnSplit on_split) {
    return std::make_shared<UnconnectedCommunicator>(
        static_cast<int>(of), static_cast<int>(world_size), "world", ledger, std::move(on_split));
  };
  Splits splits;
  for (int64_t other = 0; other < world_size; ++other) {
    size_t next = 0;
    PLAIT_RETURN_IF_ERROR(DeviceMesh::Create(sizes, world(other,
                                                          [&](const Place& own) {
                                                            if (next == splits.size())
                                                              splits.emplace_back();
                                                            splits[next++].push_back(own);
                                                            return std::pair(0, 1);
                                                          }))
                              .status());
  }
  auto next = std::make_shared<size_t>(0);
  return DeviceMesh::Create(
      sizes, world(rank, [next, rank, splits](const Place& own) {
        int place = 0, size = 0;
        const std::vector<Place>& all = splits[(*next)++];
        for (size_t other = 0; other < all.size(); ++other) {
          if (all[other].color != own.color) continue;
          ++size;
          if (std::pair(all[other].key, static_cast<int64_t>(other)) < std::pair(own.key, rank)) {
            ++place;
          }
        }
        return std::pair(place, size);
      }));
}

}  // namespace plait
