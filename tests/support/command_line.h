// Runs the executable's command line inside the test.
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tools/plait.h"

namespace plait {

struct CommandResult {
  int exit_code = 0;
  std::string output;  // stdout
  std::string errors;  // stderr
};

inline CommandResult RunCommand(const std::vector<std::string>& arguments) {
  std::vector<const char*> argv = {"plait"};
  for (const std::string& argument : arguments) argv.push_back(argument.c_str());
  ::testing::internal::CaptureStdout();
  ::testing::internal::CaptureStderr();
  CommandResult result;
  result.exit_code = RunPlait(static_cast<int>(argv.size()), argv.data());
  result.output = ::testing::internal::GetCapturedStdout();
  result.errors = ::testing::internal::GetCapturedStderr();
  return result;
}

}  // namespace plait
