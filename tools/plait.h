// The command line of the executable `plait`: a table of subcommands (plait.cc), one file each.
// Exit codes: base/exit_code.h. An error is one line on stderr, "plait: ...".
#pragma once

#include <functional>
#include <string>

#include "absl/status/status.h"

namespace CLI {
class App;
}

namespace plait {

// What the chosen subcommand does, once the command line is read.
using Action = std::function<absl::Status()>;

// Each adds its subcommand with its options to `plait`; choosing it sets `action`.
void AddBenchCommand(CLI::App& plait, Action& action);
void AddCheckpointCommand(CLI::App& plait, Action& action);
void AddConvertCommand(CLI::App& plait, Action& action);
void AddDoctorCommand(CLI::App& plait, Action& action);
void AddGenerateCommand(CLI::App& plait, Action& action);
void AddParityCommand(CLI::App& plait, Action& action);
void AddPlanCommand(CLI::App& plait, Action& action);
void AddPrepareCommand(CLI::App& plait, Action& action);
void AddRecipeCommand(CLI::App& plait, Action& action);
void AddSelftestCommand(CLI::App& plait, Action& action);
void AddTokenizeCommand(CLI::App& plait, Action& action);
void AddTrainCommand(CLI::App& plait, Action& action);

// Of `plait bench`, in files of their own.
void AddKernelBenchmarks(CLI::App& bench, Action& action);  // kernels, gemm
void AddTokenizerBenchmark(CLI::App& bench, Action& action);

// "plait: ..." on stderr.
void PrintError(const std::string& message);

// The whole executable; returns its exit code. Nothing is thrown.
int RunPlait(int argc, const char* const* argv);

}  // namespace plait
