#include "data/token_shard.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/durable_file.h"
#include "base/hdf5_file.h"
#include "base/status_macros.h"

namespace plait {
namespace {

constexpr char kSchema[] = "plait.token_shard";
constexpr int64_t kVersion = 1;
constexpr char kTokens[] = "tokens";
constexpr char kOffsets[] = "documents/offset";
constexpr int64_t kVocabularyOfU16 = 65536;

// Element `index` of an array that is not aligned.
template <class T>
T LoadElement(const char* array, int64_t index) {
  T value;
  std::memcpy(&value, array + index * static_cast<int64_t>(sizeof(T)), sizeof(T));
  return value;
}

template <class T>
absl::Status WriteTokens(Hdf5File& file, const std::vector<uint32_t>& tokens) {
  const std::vector<T> narrowed(tokens.begin(), tokens.end());
  return file.Write<T>(kTokens, narrowed, Hdf5Layout::kContiguous);
}

absl::Status Compare(const std::string& path, const TokenShardContent& content) {
  struct stat status {};
  if (::stat(path.c_str(), &status) != 0)
    return absl::NotFoundError(absl::StrCat(path, ": vanished after writing"));
  PLAIT_ASSIGN_OR_RETURN(const TokenShard shard, TokenShard::Open(path, status.st_size));
  const int64_t tokens = static_cast<int64_t>(content.tokens.size());
  bool equal = shard.num_tokens() == tokens && shard.num_documents() == content.num_documents();
  for (int64_t d = 0; equal && d <= shard.num_documents(); ++d) {
    equal = shard.DocumentOffset(d) == content.document_offsets[static_cast<size_t>(d)];
  }
  std::vector<int32_t> part(1 << 16);
  for (int64_t begin = 0; equal && begin < tokens; begin += static_cast<int64_t>(part.size())) {
    const int64_t count = std::min(static_cast<int64_t>(part.size()), tokens - begin);
    shard.Copy(begin, count, part.data());
    equal = std::equal(
        part.begin(), part.begin() + count, content.tokens.begin() + begin,
        [](int32_t read, uint32_t written) { return static_cast<uint32_t>(read) == written; });
  }
  if (!equal)
    return absl::DataLossError(
        absl::StrCat(path, ": reads back differently from what was written"));
  return absl::OkStatus();
}

absl::Status CheckSchema(const Hdf5File& file) {
  PLAIT_ASSIGN_OR_RETURN(const std::string schema, file.StringAttribute("/", "schema"));
  PLAIT_ASSIGN_OR_RETURN(const int64_t version, file.IntegerAttribute("/", "version"));
  if (schema == kSchema && version == kVersion) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat(file.path(), ": expected ", kSchema, " version ",
                                          kVersion, ", found ", schema, " version ", version));
}

}  // namespace

absl::Status WriteTokenShard(const std::string& path, const TokenShardContent& content) {
  PLAIT_CHECK_EQ(content.document_offsets.back(), static_cast<int64_t>(content.tokens.size()));
  PLAIT_ASSIGN_OR_RETURN(Hdf5File file, Hdf5File::Create(path));
  PLAIT_RETURN_IF_ERROR(content.vocabulary_size <= kVocabularyOfU16
                            ? WriteTokens<uint16_t>(file, content.tokens)
                            : WriteTokens<uint32_t>(file, content.tokens));
  PLAIT_RETURN_IF_ERROR(
      file.Write<int64_t>(kOffsets, content.document_offsets, Hdf5Layout::kContiguous));
  PLAIT_RETURN_IF_ERROR(file.SetAttribute("/", "schema", kSchema));
  PLAIT_RETURN_IF_ERROR(file.SetAttribute("/", "version", kVersion));
  PLAIT_RETURN_IF_ERROR(file.SetAttribute("/", "tokenizer_digest", content.tokenizer_digest));
  PLAIT_RETURN_IF_ERROR(file.SetAttribute("/", "vocabulary_size", content.vocabulary_size));
  PLAIT_RETURN_IF_ERROR(
      file.SetAttribute("/", "tokens", static_cast<int64_t>(content.tokens.size())));
  PLAIT_RETURN_IF_ERROR(file.SetAttribute("/", "documents", content.num_documents()));
  PLAIT_RETURN_IF_ERROR(file.SetAttribute("/", "text_bytes", content.text_bytes));
  PLAIT_RETURN_IF_ERROR(file.Close());
  PLAIT_RETURN_IF_ERROR(SyncFile(path));
  return Compare(path, content);
}

absl::StatusOr<TokenShard> TokenShard::Open(const std::string& path, int64_t expected_bytes) {
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0)
    return absl::NotFoundError(absl::StrCat(path, ": cannot be opened: ", std::strerror(errno)));
  struct stat status {};
  TokenShard shard;
  const bool sized = ::fstat(descriptor, &status) == 0;
  // The length is checked first: a mapped file that was cut short faults on access.
  if (sized && status.st_size == expected_bytes && expected_bytes > 0) {
    shard.mapped_bytes_ = static_cast<size_t>(expected_bytes);
    void* mapping = ::mmap(nullptr, shard.mapped_bytes_, PROT_READ, MAP_SHARED, descriptor, 0);
    if (mapping != MAP_FAILED) shard.mapping_ = mapping;
  }
  const int error = errno;
  ::close(descriptor);
  if (!sized || status.st_size != expected_bytes) {
    return absl::DataLossError(absl::StrCat(path, ": expected ", expected_bytes, " bytes, found ",
                                            status.st_size,
                                            " (cut short or not the file of the manifest)"));
  }
  if (shard.mapping_ == nullptr) {
    return absl::UnavailableError(
        absl::StrCat(path, ": cannot be mapped into memory: ", std::strerror(error)));
  }

  PLAIT_ASSIGN_OR_RETURN(const Hdf5File file, Hdf5File::Open(path));
  PLAIT_RETURN_IF_ERROR(CheckSchema(file));
  PLAIT_ASSIGN_OR_RETURN(shard.tokenizer_digest_, file.StringAttribute("/", "tokenizer_digest"));
  PLAIT_ASSIGN_OR_RETURN(shard.vocabulary_size_, file.IntegerAttribute("/", "vocabulary_size"));
  PLAIT_ASSIGN_OR_RETURN(shard.text_bytes_, file.IntegerAttribute("/", "text_bytes"));
  PLAIT_ASSIGN_OR_RETURN(const Hdf5Dataset tokens, file.Describe(kTokens));
  PLAIT_ASSIGN_OR_RETURN(const Hdf5Dataset offsets, file.Describe(kOffsets));
  PLAIT_ASSIGN_OR_RETURN(const int64_t tokens_at, file.ContiguousOffset(kTokens));
  PLAIT_ASSIGN_OR_RETURN(const int64_t offsets_at, file.ContiguousOffset(kOffsets));
  const auto damaged = [&path](const std::string& what) {
    return absl::DataLossError(absl::StrCat(path, ": ", what));
  };
  if ((tokens.type != Hdf5Type::kU16 && tokens.type != Hdf5Type::kU32) ||
      offsets.type != Hdf5Type::kI64 || offsets.num_elements < 2) {
    return damaged("its datasets are not those of a token shard");
  }
  const auto lies_inside = [expected_bytes](const Hdf5Dataset& dataset, int64_t at) {
    return dataset.num_elements <= expected_bytes / SizeOf(dataset.type) &&
           at <= expected_bytes - dataset.num_elements * SizeOf(dataset.type);
  };
  if (!lies_inside(tokens, tokens_at) || !lies_inside(offsets, offsets_at)) {
    return damaged("a dataset does not lie inside the file");
  }
  const char* base = static_cast<const char*>(shard.mapping_);
  shard.tokens_ = base + tokens_at;
  shard.token_bytes_ = static_cast<int>(SizeOf(tokens.type));
  shard.num_tokens_ = tokens.num_elements;
  shard.document_offsets_ = base + offsets_at;
  shard.num_documents_ = offsets.num_elements - 1;
  bool ascending = shard.DocumentOffset(0) == 0 &&
                   shard.DocumentOffset(shard.num_documents_) == shard.num_tokens_;
  for (int64_t d = 0; ascending && d < shard.num_documents_; ++d) {
    ascending = shard.DocumentOffset(d) < shard.DocumentOffset(d + 1);
  }
  if (!ascending)
    return damaged("its document offsets do not ascend from 0 to its number of tokens");
  return shard;
}

TokenShard::TokenShard(TokenShard&& other) noexcept { *this = std::move(other); }

TokenShard& TokenShard::operator=(TokenShard&& other) noexcept {
  std::swap(mapping_, other.mapping_);
  std::swap(mapped_bytes_, other.mapped_bytes_);
  tokens_ = other.tokens_;
  token_bytes_ = other.token_bytes_;
  num_tokens_ = other.num_tokens_;
  text_bytes_ = other.text_bytes_;
  vocabulary_size_ = other.vocabulary_size_;
  tokenizer_digest_ = std::move(other.tokenizer_digest_);
  document_offsets_ = other.document_offsets_;
  num_documents_ = other.num_documents_;
  return *this;
}

TokenShard::~TokenShard() {
  if (mapping_ != nullptr) ::munmap(mapping_, mapped_bytes_);
}

int64_t TokenShard::DocumentOffset(int64_t document) const {
  return LoadElement<int64_t>(document_offsets_, document);
}

void TokenShard::Copy(int64_t begin, int64_t count, int32_t* out) const {
  PLAIT_CHECK(begin >= 0 && count >= 0 && begin <= num_tokens_ - count);
  if (token_bytes_ == 2) {
    for (int64_t i = 0; i < count; ++i) out[i] = LoadElement<uint16_t>(tokens_, begin + i);
  } else {
    for (int64_t i = 0; i < count; ++i) {
      out[i] = static_cast<int32_t>(LoadElement<uint32_t>(tokens_, begin + i));
    }
  }
}

}  // namespace plait
