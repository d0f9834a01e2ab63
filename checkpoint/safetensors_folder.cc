#include "checkpoint/safetensors_folder.h"

#include <simdjson.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>
#include <unordered_set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/durable_file.h"
#include "base/status_macros.h"

namespace plait {
namespace {

using simdjson::dom::element;

constexpr char kSingleName[] = "model.safetensors";
constexpr char kPrefix[] = "model";
constexpr char kSuffix[] = ".safetensors";
constexpr int64_t kMaxIndexBytes = 100'000'000;
constexpr size_t kMaxDepth = 32;

absl::Status Error(const std::string& what) { return absl::DataLossError(what); }

bool IsPlainName(std::string_view name) {
  return !name.empty() && name.front() != '.' && name.find('/') == std::string_view::npos &&
         name.find('\0') == std::string_view::npos;
}

// total_size: an integer; some writers made a float of it.
absl::StatusOr<int64_t> ParseTotalSize(element value) {
  int64_t integer = 0;
  if (value.get(integer) == simdjson::SUCCESS && integer >= 0) return integer;
  double real = 0;
  if (value.get(real) == simdjson::SUCCESS && real >= 0 && real < 0x1p53 &&
      real == std::floor(real)) {
    return static_cast<int64_t>(real);
  }
  return Error("metadata: total_size: expected a number of bytes");
}

absl::Status ParseMetadata(element value, SafetensorsIndex& index) {
  simdjson::dom::object object;
  if (value.get(object) != simdjson::SUCCESS) return Error("metadata: expected an object");
  for (const auto& [key, entry] : object) {
    if (key != "total_size") continue;
    if (index.total_bytes >= 0) return Error("metadata: total_size: occurs twice");
    PLAIT_ASSIGN_OR_RETURN(index.total_bytes, ParseTotalSize(entry));
  }
  return absl::OkStatus();
}

absl::Status ParseWeightMap(element value, SafetensorsIndex& index) {
  simdjson::dom::object object;
  if (value.get(object) != simdjson::SUCCESS) return Error("weight_map: expected an object");
  for (const auto& [key, entry] : object) {
    const std::string where = absl::StrCat("weight_map: ", PrintableName(key), ": ");
    std::string_view file;
    if (entry.get(file) != simdjson::SUCCESS) return Error(where + "expected a file name");
    if (!IsPlainName(file)) {
      return Error(absl::StrCat(where, "'", PrintableName(file),
                                "' is not the name of a file in the folder"));
    }
    if (!index.file_of_tensor.emplace(key, file).second) return Error(where + "occurs twice");
  }
  return absl::OkStatus();
}

absl::StatusOr<SafetensorsIndex> ParseIndex(std::string_view json) {
  simdjson::dom::parser parser;
  simdjson::dom::object root;
  simdjson::error_code error = parser.allocate(json.size(), kMaxDepth);
  if (!error) error = parser.parse(json.data(), json.size()).get(root);
  if (error) return Error(absl::StrCat("not a JSON object: ", simdjson::error_message(error)));
  SafetensorsIndex index;
  std::unordered_set<std::string_view> keys;
  for (const auto& [key, value] : root) {
    if (!keys.insert(key).second) return Error(absl::StrCat(PrintableName(key), ": occurs twice"));
    if (key == "metadata") PLAIT_RETURN_IF_ERROR(ParseMetadata(value, index));
    if (key == "weight_map") PLAIT_RETURN_IF_ERROR(ParseWeightMap(value, index));
  }
  if (keys.count("weight_map") == 0) return Error("has no weight_map");
  return index;
}

// Files of the folder that look like parts of the model.
absl::StatusOr<std::set<std::string>> ModelFiles(const std::string& folder) {
  std::set<std::string> names;
  std::error_code error;
  std::filesystem::directory_iterator entries(folder, error);
  for (; !error && entries != std::filesystem::directory_iterator(); entries.increment(error)) {
    const std::string name = entries->path().filename().string();
    if (absl::StartsWith(name, kPrefix) && absl::EndsWith(name, kSuffix)) names.insert(name);
  }
  if (error) return SystemError(folder, "cannot be listed", error.value());
  return names;
}

// Tensors by name, files by name: the index's against those there are.
absl::Status CheckIndex(const std::string& path, const SafetensorsIndex& index,
                        const std::vector<SafetensorsFolder::Entry>& tensors) {
  int64_t bytes = 0;
  std::map<std::string, std::string> found;
  for (const SafetensorsFolder::Entry& entry : tensors) {
    const std::string& name = entry.tensor->name;
    bytes += entry.tensor->end - entry.tensor->begin;
    const auto expected = index.file_of_tensor.find(name);
    if (expected == index.file_of_tensor.end()) {
      return Error(absl::StrCat(path, ": does not name ", PrintableName(name), ", which is in ",
                                entry.file_name));
    }
    const auto [place, is_new] = found.emplace(name, entry.file_name);
    if (!is_new) {
      return Error(absl::StrCat(path, ": ", PrintableName(name), ": is in ", place->second,
                                " and in ", entry.file_name));
    }
    if (expected->second != entry.file_name) {
      return Error(absl::StrCat(path, ": ", PrintableName(name), ": expected in ", expected->second,
                                ", found in ", entry.file_name));
    }
  }
  for (const auto& [name, file] : index.file_of_tensor) {
    if (found.count(name) == 0) {
      return Error(absl::StrCat(path, ": ", PrintableName(name), ": is not in ", file));
    }
  }
  if (index.total_bytes < 0 || index.total_bytes == bytes) return absl::OkStatus();
  return Error(absl::StrCat(path, ": metadata: total_size is ", index.total_bytes,
                            ", the tensors have ", bytes, " bytes"));
}

}  // namespace

absl::StatusOr<SafetensorsIndex> ParseSafetensorsIndex(std::string_view json,
                                                       const std::string& path) {
  absl::StatusOr<SafetensorsIndex> index = ParseIndex(json);
  if (!index.ok()) return Annotate(index.status(), path);
  return index;
}

std::string SafetensorsIndexText(const SafetensorsIndex& index) {
  const nlohmann::ordered_json json = {{"metadata", {{"total_size", index.total_bytes}}},
                                       {"weight_map", index.file_of_tensor}};
  return json.dump(2) + "\n";
}

std::string SafetensorsShardName(size_t shard, size_t shards) {
  if (shards == 1) return kSingleName;
  return absl::StrFormat("%s-%05d-of-%05d%s", kPrefix, shard + 1, shards, kSuffix);
}

absl::Status SafetensorsFolder::AddFile(const std::string& folder, const std::string& name) {
  PLAIT_ASSIGN_OR_RETURN(SafetensorsFile file,
                         SafetensorsFile::Open(absl::StrCat(folder, "/", name)));
  files_.push_back(std::make_unique<SafetensorsFile>(std::move(file)));
  for (const SafetensorsTensor& tensor : files_.back()->header().tensors) {
    tensors_.push_back({files_.back().get(), &tensor, name});
  }
  return absl::OkStatus();
}

absl::StatusOr<SafetensorsFolder> SafetensorsFolder::Open(const std::string& folder) {
  const std::string index_path = absl::StrCat(folder, "/", kSafetensorsIndexName);
  PLAIT_ASSIGN_OR_RETURN(const std::set<std::string> there, ModelFiles(folder));
  SafetensorsFolder opened;
  std::error_code ignored;
  if (std::filesystem::exists(index_path, ignored)) {
    PLAIT_ASSIGN_OR_RETURN(const std::string json, ReadWholeFile(index_path, kMaxIndexBytes));
    PLAIT_ASSIGN_OR_RETURN(const SafetensorsIndex index, ParseSafetensorsIndex(json, index_path));
    std::set<std::string> named;
    for (const auto& [tensor, file] : index.file_of_tensor) named.insert(file);
    for (const std::string& name : there) {
      if (named.count(name) == 0) {
        return Error(absl::StrCat(folder, "/", name, ": is not named in ", kSafetensorsIndexName,
                                  "; remove the one that is out of date"));
      }
    }
    for (const std::string& name : named) PLAIT_RETURN_IF_ERROR(opened.AddFile(folder, name));
    PLAIT_RETURN_IF_ERROR(CheckIndex(index_path, index, opened.tensors_));
  } else if (there.count(kSingleName) > 0 && there.size() == 1) {
    PLAIT_RETURN_IF_ERROR(opened.AddFile(folder, kSingleName));
  } else if (!there.empty()) {
    return absl::NotFoundError(absl::StrCat(folder, ": has ", *there.begin(), " but no ",
                                            kSafetensorsIndexName, " that says what is in it"));
  } else {
    return absl::NotFoundError(absl::StrCat(folder, ": has neither ", kSingleName, " nor ",
                                            kSafetensorsIndexName,
                                            "; weights in other formats are not read"));
  }
  std::sort(opened.tensors_.begin(), opened.tensors_.end(),
            [](const Entry& a, const Entry& b) { return a.tensor->name < b.tensor->name; });
  return opened;
}

}  // namespace plait
