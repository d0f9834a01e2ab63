// What the operating system says about this process.
#pragma once

#include <cstdint>

namespace plait {

// Most memory the process ever held in RAM, in bytes.
int64_t PeakResidentBytes();

// Since the process was started, loading included. Resolution 10 ms.
double SecondsSinceProcessStart();

}  // namespace plait
