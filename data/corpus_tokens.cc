#include "data/corpus_tokens.h"

#include <atomic>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace plait {
namespace {

constexpr size_t kBlockBytes = 4 << 20;    // of text tokenised at a time
constexpr size_t kCachedBytes = 32 << 20;  // of text after which words are forgotten

absl::Status AddDocument(const Document& document, const Tokenizer& tokenizer,
                         const std::vector<int32_t>& ids, TokenPartWriter& part) {
  int64_t bytes = 0;
  for (int32_t id : ids) bytes += static_cast<int64_t>(tokenizer.BytesOf(id).size());
  bytes -= tokenizer.PrefixBytes(document.text);
  if (tokenizer.is_lossless() && bytes != static_cast<int64_t>(document.text.size())) {
    return absl::InternalError(absl::StrCat(document.name, ": its tokens stand for ", bytes,
                                            " bytes, it has ", document.text.size()));
  }
  return part.Add(tokenizer.bos_id(), ids, tokenizer.eos_id(), bytes);
}

}  // namespace

absl::Status TokeniseCorpus(CorpusReader& corpus, const Tokenizer& tokenizer, int num_threads,
                            const std::function<TokenPartWriter*(const std::string&)>& part_of,
                            const std::function<bool(int64_t)>& go_on) {
  std::vector<WordCache> caches(static_cast<size_t>(num_threads));
  size_t bytes_cached = 0;
  for (bool more = true; more;) {
    std::vector<Document> documents;
    for (size_t bytes = 0; bytes < kBlockBytes;) {
      PLAIT_ASSIGN_OR_RETURN(std::optional<Document> document, corpus.Next());
      more = document.has_value();
      if (!more) break;
      bytes += document->text.size();
      bytes_cached += document->text.size();
      documents.push_back(*std::move(document));
    }
    std::vector<absl::StatusOr<std::vector<int32_t>>> encoded(documents.size());
    const int64_t count = static_cast<int64_t>(documents.size());
    std::atomic<size_t> next_cache{0};
#pragma omp parallel num_threads(num_threads)
    {
      WordCache& cache = caches[next_cache++];
#pragma omp for schedule(dynamic)
      for (int64_t i = 0; i < count; ++i) {
        const size_t document = static_cast<size_t>(i);
        encoded[document] = tokenizer.Encode(documents[document].text, &cache);
      }
    }
    int64_t tokens = 0;
    for (size_t i = 0; i < documents.size(); ++i) {
      if (!encoded[i].ok()) return Annotate(encoded[i].status(), documents[i].name);
      PLAIT_RETURN_IF_ERROR(
          AddDocument(documents[i], tokenizer, *encoded[i], *part_of(documents[i].name)));
      tokens += static_cast<int64_t>(encoded[i]->size()) + 2;
    }
    if (!go_on(tokens)) break;
    if (bytes_cached < kCachedBytes) continue;
    caches.assign(caches.size(), WordCache());
    bytes_cached = 0;
  }
  return absl::OkStatus();
}

}  // namespace plait
