// Tokenises the documents of a corpus, in order, by all threads of a rank.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "absl/status/status.h"
#include "data/corpus_reader.h"
#include "data/shard_builder.h"
#include "data/tokenizer.h"

namespace plait {

// Adds every document of the rest of `corpus` to part_of(its name). After each block of documents
// go_on is told the tokens it gave; false ends early. Errors of CorpusReader and PartFileWriter;
// Internal where a tokenizer that promises to lose no byte does.
absl::Status TokeniseCorpus(CorpusReader& corpus, const Tokenizer& tokenizer, int num_threads,
                            const std::function<TokenPartWriter*(const std::string&)>& part_of,
                            const std::function<bool(int64_t)>& go_on);

}  // namespace plait
