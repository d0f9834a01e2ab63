#include "tools/plait.h"

#include <sys/resource.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <exception>
#include <new>
#include <string>

#include "base/exit_code.h"

namespace plait {
namespace {

constexpr void (*kCommands[])(CLI::App&, Action&) = {
    AddPrepareCommand, AddTrainCommand,  AddGenerateCommand, AddCheckpointCommand,
    AddConvertCommand, AddParityCommand, AddRecipeCommand,   AddTokenizeCommand,
    AddBenchCommand,   AddDoctorCommand, AddSelftestCommand, AddPlanCommand,
};

void PrintError(const std::string& message) {
  std::fprintf(stderr, "plait: %s\n", message.c_str());
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
  const absl::Status status = action();
  // Of the ranks that fail alike the first one speaks.
  if (!status.ok() && !status.message().empty()) PrintError(std::string(status.message()));
  return ExitCodeOf(status);
}

}  // namespace

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
  std::fflush(stdout);
  return static_cast<int>(code);
}

}  // namespace plait
