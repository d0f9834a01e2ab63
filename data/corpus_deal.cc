#include "data/corpus_deal.h"

#include <optional>

#include "base/status_macros.h"
#include "base/tensor.h"
#include "parallel/host_collectives.h"
#include "parallel/status_agreement.h"

namespace plait {

int64_t PartBegin(int64_t total, int64_t index, int64_t parts) {
  return total / parts * index + total % parts * index / parts;
}

absl::Status DealCorpus(PrepareRanks& ranks, CorpusReader& corpus) {
  PLAIT_RETURN_IF_ERROR(CheckSameText(ranks.world(), "the list of input files", corpus.Listing()));
  const int64_t begin = PartBegin(corpus.total_bytes(), ranks.rank(), ranks.size());
  const int64_t end = PartBegin(corpus.total_bytes(), ranks.rank() + 1, ranks.size());
  const absl::StatusOr<int64_t> newlines = corpus.CountNewlines(begin, end);
  PLAIT_RETURN_IF_ERROR(ranks.Meet(newlines.status()));
  // Of each rank: the file that its end divides (-1: none), and the newlines it has of that.
  const Tensor own =
      Tensor::FromValues<int64_t>({2}, {corpus.DividedFile(end).value_or(-1), *newlines});
  PLAIT_ASSIGN_OR_RETURN(const Tensor all, GatherOnHost(ranks.world(), own));
  const std::optional<int64_t> divided = corpus.DividedFile(begin);
  int64_t lines_before = 0;
  for (int peer = 0; peer < ranks.rank() && divided.has_value(); ++peer) {
    const int64_t* of_peer = all.data<int64_t>() + 2 * peer;
    if (of_peer[0] == *divided) lines_before += of_peer[1];
  }
  corpus.SetRange(begin, end, lines_before);
  return absl::OkStatus();
}

}  // namespace plait
