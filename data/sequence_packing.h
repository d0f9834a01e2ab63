// Rows -> Batch (batch.h). Every row start is a document start; the rest of a short row is padding,
// a document of its own.
#pragma once

#include <cstdint>
#include <span>

#include "data/batch.h"
#include "data/data_source.h"

namespace plait {

// At least one row, each of at most row_tokens tokens. The batch holds rows.size() x row_tokens
// tokens in host memory.
Batch PackRows(std::span<const Row> rows, int64_t row_tokens);

}  // namespace plait
