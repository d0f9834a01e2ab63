#include "trainer/random_batches.h"

#include <algorithm>

#include "base/random.h"
#include "data/sequence_packing.h"
#include "recipes/schema/recipe.pb.h"

namespace plait {
namespace {

// A full row of uniform tokens in documents of about a third of the row.
Row RandomRow(const RandomKey& key, uint64_t row_number, int64_t row_tokens, int64_t vocabulary) {
  Row row;
  const int64_t document = std::max<int64_t>(2, row_tokens / 3);
  for (int64_t t = 0; t < row_tokens; ++t) {
    const uint64_t element = row_number * static_cast<uint64_t>(row_tokens + 1) + t;
    const auto draw = [&](uint64_t at) {
      return static_cast<int32_t>(key.Uniform(at) * static_cast<double>(vocabulary));
    };
    row.tokens.push_back(draw(element));
    row.targets.push_back(draw(element + 1));
    row.weights.push_back((t + 1) % document == 0 ? 0.0f : 1.0f);
    if (t % document == 0) row.document_starts.push_back(t);
  }
  return row;
}

}  // namespace

std::vector<Batch> RandomStep(const recipe::v1::Recipe& recipe, int stage_index) {
  const recipe::v1::Stage& stage = recipe.stages(stage_index);
  const RandomKey key(recipe.seed(), RandomPurpose::kTest);
  const int64_t rows = stage.tokens_per_step() / stage.row_tokens();
  std::vector<Batch> batches;
  std::vector<Row> microbatch;
  for (int64_t row = 0; row < rows; ++row) {
    microbatch.push_back(RandomRow(key, static_cast<uint64_t>(row), stage.row_tokens(),
                                   recipe.model().vocabulary()));
    if (static_cast<int64_t>(microbatch.size()) < stage.rows_per_microbatch()) continue;
    batches.push_back(PackRows(microbatch, stage.row_tokens()));
    microbatch.clear();
  }
  return batches;
}

}  // namespace plait
