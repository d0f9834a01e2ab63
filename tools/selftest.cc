// plait selftest: proves here that the layout does not change what is learned, and that packed
// documents do not see one another. Ranks are threads of this process, or processes under a
// launcher.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/json_text.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "kernels/cuda/runtime.h"
#include "parallel/collective_watchdog.h"
#include "parallel/host_collectives.h"
#include "parallel/host_share.h"
#include "parallel/status_agreement.h"
#include "tools/plait.h"
#include "tools/ranks.h"
#include "trainer/checked_layouts.h"
#include "trainer/layout_check.h"
#include "trainer/packing_check.h"

namespace plait {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kDefaultRanks = 4;
constexpr int kMostRanks = 8;
constexpr double kTimeoutSeconds = 60;
constexpr char kPacking[] = "packing";

struct Options {
  std::optional<int> ranks;
  bool all = false;
  std::string only;
  std::string fault;
  std::string device = "CPU";
  bool json = false;
};

const char* NameOf(DType precision) {
  return precision == DType::kF64 ? "F64" : precision == DType::kF32 ? "F32" : "BF16";
}

double SecondsSince(std::chrono::steady_clock::time_point begin) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

// One step of one model on one layout. On ranks that are not of the layout only `status` is known.
struct LayoutRow {
  const CheckedLayout* layout = nullptr;
  CheckedModel model = CheckedModel::kJamba;
  DType precision = DType::kF64;
  absl::Status status;
  std::optional<LayoutDifference> worst;
  double seconds = 0;

  bool ok() const { return status.ok() && (!worst || worst->ok()); }
  const char* result() const { return ok() ? "equal" : status.ok() ? "NOT EQUAL" : "FAILED"; }
  std::string name() const {
    return absl::StrCat(layout->name(), ", ", std::string(Name(model)), " ", NameOf(precision));
  }
};

struct PackingRow {
  const CheckedLayout* layout = nullptr;
  CheckedModel model = CheckedModel::kJamba;
  DType precision = DType::kF64;
  absl::Status status;
  PackingVerdict verdict;
  double seconds = 0;

  bool ok() const { return status.ok() && verdict.ok(); }
  std::string name() const {
    return absl::StrCat(layout->ranks() > 1 ? layout->name() + ", " : "", std::string(Name(model)),
                        " ", NameOf(precision));
  }
};

class Selftest {
 public:
  Selftest(const Options& options, std::shared_ptr<Communicator> world)
      : options_(options), world_(std::move(world)) {}

  absl::Status Run() {
    PLAIT_RETURN_IF_ERROR(ChooseLayouts());
    PLAIT_ASSIGN_OR_RETURN(const HostShare host, ShareOfHost(*world_));
    const auto own = DeviceOf(host.rank_on_host);
    PLAIT_RETURN_IF_ERROR(Agreed(own.status()));
    own_device_ = *own;
    for (LayoutRow& row : layouts_) {
      PLAIT_RETURN_IF_ERROR(CheckOne(row));
      ++done_;
      LogInfo(absl::StrFormat("%d of %d: %s: %s in %.2f s", done_, layouts_.size(), row.name(),
                              row.result(), row.seconds));
    }
    for (PackingRow& row : packing_) PLAIT_RETURN_IF_ERROR(CheckPackingOf(row));
    if (world_->rank() == 0) (options_.json ? PrintJson() : PrintTable());
    return Verdict();
  }

 private:
  // The layouts that fit the ranks. Those of a launcher are its own.
  absl::Status ChooseLayouts() {
    if (in_processes() && (options_.ranks || options_.all)) {
      return Agreed(absl::InvalidArgumentError(
          absl::StrCat(options_.all ? "--all" : "--ranks",
                       ": under a launcher the ranks are the processes it started; leave it out")));
    }
    const int ranks = in_processes()
                          ? world_->size()
                          : options_.ranks.value_or(options_.all ? kMostRanks : kDefaultRanks);
    bool any = false;
    for (const CheckedLayout& layout : CheckedLayouts()) {
      if (!absl::StrContains(layout.name(), options_.only)) continue;
      any = true;
      if (layout.ranks() > ranks) continue;
      for (const CheckedModel model : layout.models) {
        for (const DType precision : {DType::kF64, DType::kF32, DType::kBf16}) {
          layouts_.push_back({.layout = &layout, .model = model, .precision = precision});
        }
      }
    }
    for (const CheckedLayout& layout : PackingLayouts()) {
      const bool wanted = layout.ranks() == 1 || absl::StrContains(layout.name(), options_.only);
      if (!wanted || layout.ranks() > ranks) continue;
      for (const CheckedModel model : layout.models) {
        for (const DType precision : {DType::kF64, DType::kF32, DType::kBf16})
          packing_.push_back({.layout = &layout, .model = model, .precision = precision});
      }
    }
    if (!layouts_.empty()) return absl::OkStatus();
    return Agreed(absl::InvalidArgumentError(
        any ? absl::StrCat("--only ", options_.only, ": needs more than ", ranks, " ranks")
            : absl::StrCat("--only ", options_.only, ": no layout's name has it")));
  }

  // Of the rank with this number on the host: one thread, or a GPU of its own.
  absl::StatusOr<ExecutionOptions> DeviceOf(int rank) const {
    if (options_.device == "CPU") return OneThread(rank);
    auto options = cuda::OptionsOn(rank, 1);
    if (!options.ok()) return Annotate(options.status(), "--device CUDA: each rank needs a GPU");
    return options;
  }

  bool in_processes() const { return world_->size() > 1; }
  absl::Status Agreed(const absl::Status& status) { return AgreeOnStatus(*world_, status); }

  // Of every layout with as many microbatches.
  absl::StatusOr<const CheckedStep*> OneRank(const LayoutRow& row) {
    const int leaves = NumCheckedLeaves(*row.layout);
    const auto key = std::make_tuple(row.model, row.precision, leaves);
    auto found = one_rank_.find(key);
    if (found == one_rank_.end()) {
      PLAIT_ASSIGN_OR_RETURN(CheckedStep step,
                             StepOnOneRank(row.model, row.precision, leaves, own_device_));
      found = one_rank_.emplace(key, std::move(step)).first;
    }
    return &found->second;
  }

  // Only where a rank is lost: what a layout gets wrong is in its row.
  absl::Status CheckOne(LayoutRow& row) {
    SetStatusLine(absl::StrCat(done_ + 1, " of ", layouts_.size(), ": ", row.name()));
    const auto begin = std::chrono::steady_clock::now();
    std::shared_ptr<Communicator> part;
    if (in_processes()) {
      PLAIT_ASSIGN_OR_RETURN(part, FirstRanks(row.layout->ranks()));
    }
    row.status = [&]() -> absl::Status {
      if (in_processes() && part == nullptr) return absl::OkStatus();
      PLAIT_ASSIGN_OR_RETURN(const CheckedStep* one_rank, OneRank(row));
      const LayoutFault fault{.tensor = options_.fault == kPacking ? "" : options_.fault,
                              .factor = LayoutFault::VisibleFactor(row.precision)};
      const auto differences =
          in_processes() ? CompareWithOneRank(part, row.model, row.precision, *row.layout,
                                              *one_rank, fault, own_device_)
                         : CompareWithOneRank(row.model, row.precision, *row.layout, *one_rank,
                                              fault, [this](int rank) { return DeviceOf(rank); });
      PLAIT_RETURN_IF_ERROR(differences.status());
      row.worst = WorstOf(*differences);
      return absl::OkStatus();
    }();
    if (in_processes()) row.status = Agreed(row.status);
    row.seconds = SecondsSince(begin);
    SetStatusLine("");
    return absl::OkStatus();
  }

  // A communicator of the first ranks of the world; nullptr on the others. Collective.
  absl::StatusOr<std::shared_ptr<Communicator>> FirstRanks(int ranks) {
    const auto found = parts_.find(ranks);
    if (found != parts_.end()) return found->second;
    const bool is_first = world_->rank() < ranks;
    PLAIT_ASSIGN_OR_RETURN(
        std::shared_ptr<Communicator> part,
        world_->Split(/*color=*/is_first ? 0 : 1, /*key=*/world_->rank(), "layout"));
    return parts_[ranks] = is_first ? part : nullptr;
  }

  absl::Status CheckPackingOf(PackingRow& row) {
    SetStatusLine(absl::StrCat("packed documents, ", row.name()));
    const auto begin = std::chrono::steady_clock::now();
    const PackingFault fault =
        options_.fault == kPacking ? PackingFault::kOneDocument : PackingFault::kNone;
    std::shared_ptr<Communicator> part;
    if (in_processes()) {
      PLAIT_ASSIGN_OR_RETURN(part, FirstRanks(row.layout->ranks()));
    }
    row.status = [&]() -> absl::Status {
      if (in_processes() && part == nullptr) return absl::OkStatus();
      const auto verdict =
          in_processes()
              ? CheckPacking(part, row.model, row.precision, *row.layout, fault, own_device_)
              : CheckPacking(row.model, row.precision, *row.layout, fault,
                             [this](int rank) { return DeviceOf(rank); });
      PLAIT_RETURN_IF_ERROR(verdict.status());
      row.verdict = *verdict;
      return absl::OkStatus();
    }();
    if (in_processes()) row.status = Agreed(row.status);
    row.seconds = SecondsSince(begin);
    SetStatusLine("");
    return absl::OkStatus();
  }

  void PrintTable() const {
    size_t width = 6;
    for (const LayoutRow& row : layouts_) width = std::max(width, row.layout->name().size());
    const auto columns = static_cast<int>(width);
    std::printf(
        "%-*s  ranks  model       precision  result        error    bound  seconds  worst\n",
        columns, "layout");
    for (const LayoutRow& row : layouts_) {
      std::printf("%-*s  %5d  %-10s  %-9s  %-9s ", columns, row.layout->name().c_str(),
                  row.layout->ranks(), std::string(Name(row.model)).c_str(), NameOf(row.precision),
                  row.result());
      if (row.worst) {
        std::printf(" %8.1e %8.0e %8.2f  %s\n", row.worst->error, row.worst->bound, row.seconds,
                    row.worst->tensor.c_str());
      } else {
        std::printf(" %8s %8s %8.2f  %s\n", "-", "-", row.seconds,
                    std::string(row.status.message()).c_str());
      }
    }
    for (const PackingRow& row : packing_) {
      std::printf("packed documents, %s: ", row.name().c_str());
      if (!row.status.ok()) {
        std::printf("%s\n", std::string(row.status.message()).c_str());
      } else if (row.ok()) {
        std::printf("the same bits behind %d other documents, %.2f s\n", row.verdict.documents,
                    row.seconds);
      } else {
        std::printf("NOT ISOLATED: %ld outputs and %ld elements of gradients differ\n",
                    static_cast<long>(row.verdict.differing_outputs),
                    static_cast<long>(row.verdict.differing_gradients));
      }
    }
    std::printf("%s\n", NumFailed() == 0 ? "the layout changes nothing that is learned"
                                         : absl::StrCat(NumFailed(), " checks failed").c_str());
  }

  void PrintJson() const {
    Json layouts = Json::array();
    for (const LayoutRow& row : layouts_) {
      Json entry = {{"layout", row.layout->name()},
                    {"ranks", row.layout->ranks()},
                    {"model", std::string(Name(row.model))},
                    {"precision", NameOf(row.precision)},
                    {"ok", row.ok()},
                    {"seconds", row.seconds}};
      if (row.worst) {
        entry["worst"] = {{"tensor", row.worst->tensor},
                          {"error", row.worst->error},
                          {"bound", row.worst->bound}};
      } else {
        entry["problem"] = std::string(row.status.message());
      }
      layouts.push_back(std::move(entry));
    }
    Json cases = Json::array();
    bool isolated = true;
    for (const PackingRow& row : packing_) {
      isolated = isolated && row.ok();
      Json entry = {{"layout", row.layout->name()},
                    {"model", std::string(Name(row.model))},
                    {"precision", NameOf(row.precision)},
                    {"ok", row.ok()},
                    {"seconds", row.seconds}};
      if (row.status.ok()) {
        entry["documents"] = row.verdict.documents;
        entry["differing_outputs"] = row.verdict.differing_outputs;
        entry["differing_gradients"] = row.verdict.differing_gradients;
      } else {
        entry["problem"] = std::string(row.status.message());
      }
      cases.push_back(std::move(entry));
    }
    const Json answer = {{"layouts", std::move(layouts)},
                         {"packing", {{"ok", isolated}, {"cases", std::move(cases)}}},
                         {"ok", NumFailed() == 0}};
    std::printf("%s\n", JsonText(answer).c_str());
  }

  int NumFailed() const {
    int failed = 0;
    for (const LayoutRow& row : layouts_) failed += !row.ok();
    for (const PackingRow& row : packing_) failed += !row.ok();
    return failed;
  }

  // Exit code 70. Only the first rank is of every layout and knows.
  absl::Status Verdict() {
    double failed = NumFailed();
    PLAIT_RETURN_IF_ERROR(
        AllReduceOnHost(*world_, {&failed, DType::kF64, 1}, ReduceOperation::kMax));
    if (failed == 0) return absl::OkStatus();
    return Agreed(absl::InternalError(
        absl::StrCat("selftest: ", failed, " of ", layouts_.size() + packing_.size(),
                     " checks failed; this build must not train on such layouts here")));
  }

  const Options& options_;
  std::shared_ptr<Communicator> world_;
  ExecutionOptions own_device_;
  std::map<int, std::shared_ptr<Communicator>> parts_;  // by ranks
  std::map<std::tuple<CheckedModel, DType, int>, CheckedStep> one_rank_;
  std::vector<LayoutRow> layouts_;
  std::vector<PackingRow> packing_;
  int done_ = 0;
};

absl::Status Run(const Options& options) {
  return RunOnRanks([&options](const std::shared_ptr<Communicator>& world) {
    std::optional<CollectiveWatchdog> watchdog;
    if (world->size() > 1) watchdog.emplace(world->ledger(), kTimeoutSeconds);
    return Selftest(options, world).Run();
  });
}

}  // namespace

void AddSelftestCommand(CLI::App& plait, Action& action) {
  auto options = std::make_shared<Options>();
  CLI::App* command = plait.add_subcommand(
      "selftest", "Proves on this machine that the layout does not change what is learned");
  CLI::Option* ranks =
      command
          ->add_option("--ranks", options->ranks,
                       "Checks the layouts of up to this many ranks, threads of one process; "
                       "default 4")
          ->check(CLI::Range(2, kMostRanks));
  command->add_flag("--all", options->all, "Checks every layout, up to 8 ranks")->excludes(ranks);
  command->add_option("--only", options->only, "Checks layouts whose name has this text");
  command->add_option(
      "--fault", options->fault,
      "To see it fail: scales the gradient of this tensor by 1.01 on one rank, in BF16 "
      "by 2; 'packing' joins the packed documents");
  command
      ->add_option("--device", options->device,
                   "What the ranks compute on: CPU, or CUDA for a GPU each; default CPU")
      ->check(CLI::IsMember({"CPU", "CUDA"}));
  command->add_flag("--json", options->json, "Prints one JSON object");
  command->footer(
      "Trains one step of tiny models (Jamba, Llama; packed documents, padding, weighted tokens, "
      "every loss) on one rank\nand on each layout, and compares every gradient, the norm and the "
      "losses: |difference| / |gradient| at most\n1e-11 in F64; in F32 1e-6 for replicate, shard "
      "and pipeline, 2e-5 for the other axes; in BF16 1e-6 and what the\nroundings of one rank, "
      "measured against F64, allow. Then puts documents behind others and compares bits.\n"
      "Exit code 70 where a check failed.\n"
      "Examples: plait selftest; plait selftest --all --json > proof.json\n"
      "          plait selftest --only \"tensor 2\" --fault lm_head.weight\n"
      "          tools/launch/mpirun.sh -n 4 plait selftest    # the ranks are processes\n"
      "          tools/launch/mpirun.sh -n 8 plait selftest --device CUDA    # on 8 GPUs");
  command->callback([options, &action] { action = [options] { return Run(*options); }; });
}

}  // namespace plait
