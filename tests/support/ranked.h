// Tests that run on several ranks under a launcher: linked with ranked_main.cc instead of
// GoogleTest's main. Every rank runs every test; rank 0 prints, others print their failures alone.
#pragma once

#include <memory>

#include "parallel/communicator.h"

namespace plait {

// The communicator of all ranks, for the whole program.
const std::shared_ptr<Communicator>& RankedWorld();

}  // namespace plait
