#include "data/document_order.h"

namespace plait {

DocumentOrder::Place DocumentOrder::At(int64_t position) const {
  int64_t low = 0, high = num_documents_;
  int64_t low_offset = 0, high_offset = offset_(high);
  while (high - low > 1) {
    // A middle belongs to one node only, so it numbers the nodes.
    const int64_t middle = low + (high - low) / 2;
    const int64_t middle_offset = offset_(middle);
    const bool swapped =
        key_.has_value() && (key_->Words(static_cast<uint64_t>(middle))[0] & 1) != 0;
    const int64_t first_tokens = swapped ? high_offset - middle_offset : middle_offset - low_offset;
    const bool in_first = position < first_tokens;
    if (!in_first) position -= first_tokens;
    if (in_first != swapped) {
      high = middle;
      high_offset = middle_offset;
    } else {
      low = middle;
      low_offset = middle_offset;
    }
  }
  return {low, position};
}

}  // namespace plait
