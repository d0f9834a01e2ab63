// The linked oneDNN.
#pragma once

#include <string>

namespace plait::cpu {

std::string OnednnVersion();  // "2.6.0"

}  // namespace plait::cpu
