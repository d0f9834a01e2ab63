#include "checkpoint/manifest_file.h"

#include <google/protobuf/io/tokenizer.h>
#include <google/protobuf/text_format.h>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/check.h"
#include "base/digest.h"
#include "base/durable_file.h"
#include "base/status_macros.h"
#include "checkpoint/manifest.pb.h"

namespace plait {
namespace {

constexpr int kFormatVersion = 1;
constexpr int kRecursionLimit = 64;
// Shorter segments take memory for nothing; longer ones leave threads without work.
constexpr int64_t kMinSegmentBytes = 64 << 10, kMaxSegmentBytes = 1 << 30;
constexpr size_t kDigestDigits = 32;
constexpr char kDigestLine[] = "# digest of the lines above: ";

class FirstError : public google::protobuf::io::ErrorCollector {
 public:
  void AddError(int line, google::protobuf::io::ColumnNumber column,
                const std::string& message) override {
    if (text_.empty()) text_ = absl::StrCat(line + 1, ":", column + 1, ": ", message);
  }
  const std::string& text() const { return text_; }

 private:
  std::string text_;
};

bool IsPlainName(const std::string& name) {
  return !name.empty() && name.front() != '.' && name.find('/') == std::string::npos &&
         name.find('\0') == std::string::npos;
}

absl::Status Damaged(const std::string& path, const std::string& what) {
  return absl::DataLossError(absl::StrCat(path, ": ", what));
}

}  // namespace

std::string CheckpointManifestText(const CheckpointManifest& manifest) {
  checkpoint::v1::Manifest message;
  message.set_format_version(kFormatVersion);
  message.set_step(manifest.description.step);
  message.set_stage(manifest.description.stage);
  message.set_ranks(static_cast<int32_t>(manifest.ranks));
  message.set_recipe(manifest.description.recipe_text);
  message.set_recipe_digest(manifest.description.recipe_digest);
  message.set_model_digest(manifest.description.model_digest);
  message.set_tokenizer_digest(manifest.description.tokenizer_digest);
  message.mutable_integers()->insert(manifest.integers.begin(), manifest.integers.end());
  message.mutable_texts()->insert(manifest.texts.begin(), manifest.texts.end());
  for (const CheckpointFile& file : manifest.files) {
    checkpoint::v1::File* entry = message.add_files();
    entry->set_name(file.name);
    entry->set_bytes(file.bytes);
    entry->set_digest(file.digest);
    if (file.segment_bytes > 0) entry->set_segment_bytes(file.segment_bytes);
  }
  std::string text;
  PLAIT_CHECK(google::protobuf::TextFormat::PrintToString(message, &text));
  return absl::StrCat(text, kDigestLine, DigestOf(text.data(), text.size()), "\n");
}

absl::StatusOr<CheckpointManifest> ParseCheckpointManifest(const std::string& text,
                                                           const std::string& path) {
  const size_t line_size = sizeof(kDigestLine) - 1 + kDigestDigits + 1;
  if (text.size() < line_size) return Damaged(path, "cut short: no digest in its last line");
  const std::string body = text.substr(0, text.size() - line_size);
  const std::string expected = absl::StrCat(kDigestLine, DigestOf(body.data(), body.size()), "\n");
  if (text.substr(body.size()) != expected) {
    return Damaged(path, "damaged: the digest in its last line is not that of its text");
  }

  checkpoint::v1::Manifest message;
  FirstError error;
  google::protobuf::TextFormat::Parser parser;
  parser.SetRecursionLimit(kRecursionLimit);
  parser.RecordErrorsTo(&error);
  if (!parser.ParseFromString(body, &message)) return Damaged(path, error.text());
  if (message.format_version() != kFormatVersion) {
    return Damaged(path, absl::StrCat("format_version is ", message.format_version(),
                                      ", this plait reads ", kFormatVersion));
  }
  if (message.required_features_size() > 0) {
    return Damaged(path, absl::StrCat("requires the feature '", message.required_features(0),
                                      "', which this plait does not have"));
  }
  if (message.step() < 0 || message.stage() < 0 || message.ranks() < 1) {
    return Damaged(path, absl::StrCat("step ", message.step(), ", stage ", message.stage(),
                                      ", ranks ", message.ranks(), ": out of range"));
  }

  CheckpointManifest manifest;
  manifest.description = {.step = message.step(),
                          .stage = message.stage(),
                          .recipe_text = message.recipe(),
                          .recipe_digest = message.recipe_digest(),
                          .model_digest = message.model_digest(),
                          .tokenizer_digest = message.tokenizer_digest()};
  manifest.ranks = message.ranks();
  manifest.integers = {message.integers().begin(), message.integers().end()};
  manifest.texts = {message.texts().begin(), message.texts().end()};
  for (const checkpoint::v1::File& file : message.files()) {
    if (!IsPlainName(file.name()) || file.bytes() < 0) {
      return Damaged(
          path, absl::StrCat("bad file entry '", file.name(), "' of ", file.bytes(), " bytes"));
    }
    if (file.has_segment_bytes() &&
        (file.segment_bytes() < kMinSegmentBytes || file.segment_bytes() > kMaxSegmentBytes)) {
      return Damaged(path, absl::StrCat(file.name(), ": segment_bytes is ", file.segment_bytes(),
                                        ", expected ", kMinSegmentBytes, " to ", kMaxSegmentBytes));
    }
    manifest.files.push_back({file.name(), file.bytes(), file.digest(), file.segment_bytes()});
  }
  return manifest;
}

absl::StatusOr<CheckpointManifest> ReadCheckpointManifest(const std::string& checkpoint_folder) {
  const std::string path = absl::StrCat(checkpoint_folder, "/", kCheckpointManifestName);
  absl::StatusOr<std::string> text = ReadWholeFile(path, kMaxCheckpointManifestBytes);
  if (absl::IsInvalidArgument(text.status())) return Damaged(path, "longer than any manifest");
  PLAIT_RETURN_IF_ERROR(text.status());
  return ParseCheckpointManifest(*text, path);
}

}  // namespace plait
