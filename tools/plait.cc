#include "tools/plait.h"

#include <sys/resource.h>

#include <CLI/CLI.hpp>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <initializer_list>
#include <new>
#include <string>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/exit_code.h"

namespace plait {
namespace {

constexpr void (*kCommands[])(CLI::App&, Action&) = {
    AddPrepareCommand, AddTrainCommand,  AddGenerateCommand, AddCheckpointCommand,
    AddConvertCommand, AddParityCommand, AddRecipeCommand,   AddTokenizeCommand,
    AddBenchCommand,   AddDoctorCommand, AddSelftestCommand, AddPlanCommand,
};

// The first of these variables of launchers, as a number.
int64_t FromLauncher(std::initializer_list<const char*> names, int64_t otherwise) {
  for (const char* name : names) {
    const char* const text = std::getenv(name);
    int64_t value = 0;
    if (text != nullptr && absl::SimpleAtoi(text, &value)) return value;
  }
  return otherwise;
}

int64_t RankOfLauncher() { return FromLauncher({"OMPI_COMM_WORLD_RANK", "PMI_RANK"}, 0); }

// Commands of one process would do all of it on each rank, and mix what they say.
absl::Status CheckRanks(const CLI::App& app) {
  const int64_t ranks = FromLauncher({"OMPI_COMM_WORLD_SIZE", "PMI_SIZE"}, 1);
  const CLI::App* command = app.get_subcommands().at(0);
  std::string name = command->get_name();
  for (const char* const of_ranks : {"train", "convert", "prepare", "doctor", "selftest"}) {
    if (name == of_ranks) return absl::OkStatus();
  }
  if (!command->get_subcommands().empty()) name += " " + command->get_subcommands()[0]->get_name();
  if (ranks <= 1 || name == "bench ranks") return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(name, ": works on one rank, was started on ",
                                                 ranks, "; start it without mpirun"));
}

// A checkpoint of many ranks is as many open files.
void AllowManyFiles() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  (void)::setrlimit(RLIMIT_NOFILE, &limit);
}

// CLI11 reports what it reads wrong by exceptions; none leaves this function.
ExitCode ParseAndRun(int argc, const char* const* argv) {
  CLI::App app("Pretrains hybrid Transformer-Mamba-MoE and Llama-2 models.", "plait");
  app.require_subcommand(1);
  app.fallthrough(false);
  app.set_version_flag("--version", "plait 0.1.0");
  app.footer(
      "Example: plait prepare --input text/ --output data && plait train recipe.textproto --output "
      "runs/first\nExit codes: 0 done, 2 bad recipe, data or command line, 3 bad checkpoint, "
      "17 numeric fault,\n70 a bug of plait, 75 try again (stopped on request, disk or memory "
      "full)");
  Action action;
  for (const auto add : kCommands) add(app, action);
  if (argc > 1 && argv[1][0] != '-' &&
      app.get_subcommands([argv](CLI::App* command) { return command->get_name() == argv[1]; })
          .empty()) {
    PrintError(std::string("no command '") + argv[1] + "' (see --help)");
    return ExitCode::kBadInput;
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) {
      app.exit(error);  // prints help or version on stdout
      return ExitCode::kDone;
    }
    PrintError(std::string(error.what()) + " (see --help)");
    return ExitCode::kBadInput;
  }
  if (absl::Status single = CheckRanks(app); !single.ok()) {
    if (RankOfLauncher() == 0) PrintError(std::string(single.message()));
    return ExitCode::kBadInput;
  }
  const absl::Status status = action();
  // Of ranks that fail alike the first one has spoken.
  if (!status.ok() && !status.message().empty()) PrintError(std::string(status.message()));
  return ExitCodeOf(status);
}

}  // namespace

void PrintError(const std::string& message) {
  std::fprintf(stderr, "plait: %s\n", message.c_str());
}

int RunPlait(int argc, const char* const* argv) {
  AllowManyFiles();
  ExitCode code = ExitCode::kInternal;
  try {
    code = ParseAndRun(argc, argv);
  } catch (const std::bad_alloc&) {
    PrintError("out of memory");
    code = ExitCode::kTryAgain;
  } catch (const std::exception& error) {
    PrintError(std::string("unexpected: ") + error.what());
  }
  const int error = std::fflush(stdout) == 0 ? 0 : errno;
  if (error != 0 || std::ferror(stdout) != 0) {
    PrintError(absl::StrCat("standard output cannot be written: ",
                            error != 0 ? std::strerror(error) : "a part of it is lost"));
    if (code == ExitCode::kDone) code = ExitCode::kTryAgain;
  }
  return static_cast<int>(code);
}

}  // namespace plait
