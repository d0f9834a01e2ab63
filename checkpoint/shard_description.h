// What rank files hold, as bytes that ranks send each other: so that not every rank has to open
// every rank's file.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "checkpoint/shard_file.h"

namespace plait {

// The tensors of some ranks' files, by rank.
using DescribedFiles = std::map<int64_t, std::vector<StoredTensor>>;

std::string BytesOf(const DescribedFiles& files);

// Adds what `bytes` of BytesOf describe. Internal where they are no such bytes.
absl::Status AddDescribedFiles(std::string_view bytes, DescribedFiles& files);

}  // namespace plait
