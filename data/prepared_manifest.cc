#include "data/prepared_manifest.h"

#include <simdjson.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/digest.h"
#include "base/durable_file.h"
#include "base/status_macros.h"

namespace plait {
namespace {

constexpr char kSchema[] = "plait.prepared";
constexpr int64_t kVersion = 1;
constexpr int64_t kMaxManifestBytes = 64 << 20;

using Json = nlohmann::ordered_json;

Json ToJson(const ManifestFile& file) {
  return {{"file", file.name}, {"bytes", file.bytes}, {"xxh3_128", file.digest}};
}

Json ToJson(const ManifestShard& shard) {
  Json json = ToJson(shard.file);
  json["documents"] = shard.documents;
  json["tokens"] = shard.tokens;
  json["text_bytes"] = shard.text_bytes;
  return json;
}

// Reads fields and keeps the first thing that is wrong.
class FieldReader {
 public:
  explicit FieldReader(std::string path) : path_(std::move(path)) {}

  template <class T>
  T Get(simdjson::dom::element object, std::string_view name) {
    T value{};
    if (const auto error = object[name].get(value)) Fail(name, simdjson::error_message(error));
    return value;
  }

  simdjson::dom::element Child(simdjson::dom::element object, std::string_view name) {
    return Get<simdjson::dom::element>(object, name);
  }

  int64_t Count(simdjson::dom::element object, std::string_view name) {
    const int64_t value = Get<int64_t>(object, name);
    if (value < 0) Fail(name, "is negative");
    return value;
  }

  ManifestFile File(simdjson::dom::element object) {
    ManifestFile file{std::string(Get<std::string_view>(object, "file")), Count(object, "bytes"),
                      std::string(Get<std::string_view>(object, "xxh3_128"))};
    // A name, never a path: nothing outside the folder is opened.
    if (file.name.empty() || file.name.front() == '.' || file.name.find('/') != std::string::npos) {
      Fail("file", "is not the name of a file in the folder");
    }
    return file;
  }

  std::vector<ManifestShard> Shards(simdjson::dom::element object, std::string_view name) {
    std::vector<ManifestShard> shards;
    const simdjson::dom::array entries = Get<simdjson::dom::array>(object, name);
    if (!status_.ok()) return shards;
    for (simdjson::dom::element shard : entries) {
      if (!status_.ok()) break;
      shards.push_back({File(shard), Count(shard, "documents"), Count(shard, "tokens"),
                        Count(shard, "text_bytes")});
    }
    return shards;
  }

  void Fail(std::string_view field, std::string_view what) {
    if (status_.ok()) {
      status_ = absl::DataLossError(
          absl::StrCat(path_, ": ", std::string(field), ": ", std::string(what)));
    }
  }

  const absl::Status& status() const { return status_; }

 private:
  std::string path_;
  absl::Status status_;
};

}  // namespace

std::string PreparedManifest::Fingerprint() const {
  std::string digests = tokenizer.digest;
  for (const ManifestShard& shard : train) digests += shard.file.digest;
  return DigestOf(digests.data(), digests.size());
}

absl::Status WriteManifest(const std::string& folder, const PreparedManifest& manifest) {
  Json json = {{"schema", kSchema}, {"version", kVersion}, {"fingerprint", manifest.Fingerprint()}};
  json["tokenizer"] = ToJson(manifest.tokenizer);
  json["tokenizer"]["vocabulary_size"] = manifest.vocabulary_size;
  json["tokenizer"]["bos_id"] = manifest.bos_id;
  json["tokenizer"]["eos_id"] = manifest.eos_id;
  json["tokenizer"]["has_dummy_prefix"] = manifest.has_dummy_prefix;
  json["vocabulary"] = ToJson(manifest.vocabulary);
  json["train"] = Json::array();
  for (const ManifestShard& shard : manifest.train) json["train"].push_back(ToJson(shard));
  json["heldout"] = Json::array();
  for (const ManifestShard& shard : manifest.heldout) json["heldout"].push_back(ToJson(shard));
  return WriteFileDurably(folder + "/" + kManifestName, json.dump(2) + "\n");
}

absl::StatusOr<PreparedManifest> ReadManifest(const std::string& folder) {
  const std::string path = folder + "/" + kManifestName;
  absl::StatusOr<std::string> text = ReadWholeFile(path, kMaxManifestBytes);
  if (absl::IsNotFound(text.status())) {
    return absl::NotFoundError(absl::StrCat(path, ": no such file; make it with plait prepare"));
  }
  if (!text.ok()) return std::move(text).status();
  simdjson::dom::parser parser;
  if (parser.allocate(text->size() + simdjson::SIMDJSON_PADDING, 32) != simdjson::SUCCESS) {
    return absl::ResourceExhaustedError(absl::StrCat(path, ": no memory to read it"));
  }
  simdjson::dom::element root;
  if (const auto error = parser.parse(*text).get(root)) {
    return absl::DataLossError(absl::StrCat(path, ": not JSON: ", simdjson::error_message(error)));
  }
  FieldReader reader(path);
  const std::string_view schema = reader.Get<std::string_view>(root, "schema");
  const int64_t version = reader.Get<int64_t>(root, "version");
  PLAIT_RETURN_IF_ERROR(reader.status());
  if (schema != kSchema || version != kVersion) {
    return absl::DataLossError(absl::StrCat(path, ": expected ", kSchema, " version ", kVersion,
                                            ", found ", std::string(schema), " version ", version));
  }
  PreparedManifest manifest;
  const simdjson::dom::element tokenizer = reader.Child(root, "tokenizer");
  const simdjson::dom::element vocabulary = reader.Child(root, "vocabulary");
  PLAIT_RETURN_IF_ERROR(reader.status());
  manifest.tokenizer = reader.File(tokenizer);
  manifest.vocabulary_size = reader.Count(tokenizer, "vocabulary_size");
  manifest.bos_id = static_cast<int32_t>(reader.Count(tokenizer, "bos_id"));
  manifest.eos_id = static_cast<int32_t>(reader.Count(tokenizer, "eos_id"));
  manifest.has_dummy_prefix = reader.Get<bool>(tokenizer, "has_dummy_prefix");
  manifest.vocabulary = reader.File(vocabulary);
  manifest.train = reader.Shards(root, "train");
  manifest.heldout = reader.Shards(root, "heldout");
  PLAIT_RETURN_IF_ERROR(reader.status());
  return manifest;
}

absl::StatusOr<ManifestFile> DescribeFile(const std::string& folder, const std::string& name) {
  const std::string path = folder + "/" + name;
  ManifestFile file{name, 0, ""};
  PLAIT_ASSIGN_OR_RETURN(file.digest, DigestOfFile(path));
  std::error_code error;
  file.bytes = static_cast<int64_t>(std::filesystem::file_size(path, error));
  if (error) return absl::NotFoundError(absl::StrCat(path, ": ", error.message()));
  return file;
}

absl::Status VerifyPrepared(const std::string& folder, int64_t max_shard_bytes) {
  PLAIT_ASSIGN_OR_RETURN(const PreparedManifest manifest, ReadManifest(folder));
  std::vector<ManifestFile> files = {manifest.tokenizer, manifest.vocabulary};
  int64_t shard_bytes = 0;
  for (const auto* shards : {&manifest.train, &manifest.heldout}) {
    for (const ManifestShard& shard : *shards) {
      files.push_back(shard.file);
      shard_bytes += shard.file.bytes;
    }
  }
  if (shard_bytes > max_shard_bytes) files.resize(2);
  for (const ManifestFile& expected : files) {
    PLAIT_ASSIGN_OR_RETURN(const ManifestFile found, DescribeFile(folder, expected.name));
    if (found.bytes != expected.bytes || found.digest != expected.digest) {
      return absl::DataLossError(absl::StrCat(folder, "/", expected.name, ": damaged: expected ",
                                              expected.bytes, " bytes of digest ", expected.digest,
                                              ", found ", found.bytes, " of ", found.digest,
                                              "; make it again with plait prepare"));
    }
  }
  return absl::OkStatus();
}

}  // namespace plait
