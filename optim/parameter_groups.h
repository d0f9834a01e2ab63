// Which parameters decay. Matrices, embeddings, convolutions and experts do; A_log, D, biases and
// norm weights do not, whatever their rank (A_log has two dims, conv1d.weight three). By name
// alone: names are the logical ones. Source: the practice of Mamba ("Mamba: Linear-Time Sequence
// Modeling with Selective State Spaces", 2023).
#pragma once

#include <string>

namespace plait {

bool HasWeightDecay(const std::string& name);

}  // namespace plait
