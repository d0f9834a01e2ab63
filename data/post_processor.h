// `post_processor` of a tokenizer.json: the special tokens around a text. TemplateProcessing (of
// one sequence; `pair` is not used), ByteLevel (moves offsets only) and Sequence; others are
// refused.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "data/json_value.h"

namespace plait {

class PostProcessor {
 public:
  // Nothing is added.
  PostProcessor() = default;
  // InvalidArgument with the place in `file` for what is not supported, and for ids not below
  // `vocabulary`.
  static absl::StatusOr<PostProcessor> FromJson(const std::string& file, JsonValue post_processor,
                                                int64_t vocabulary);

  // Ids before and after those of a text.
  const std::vector<int32_t>& before() const { return before_; }
  const std::vector<int32_t>& after() const { return after_; }
  // Whether there is a template, if only an empty one.
  bool has_template() const { return has_template_; }

 private:
  absl::Status Add(const std::string& file, const std::string& place, JsonValue post_processor,
                   int64_t vocabulary);
  absl::Status AddTemplate(class ComponentFields& fields, int64_t vocabulary);

  std::vector<int32_t> before_, after_;
  bool has_template_ = false;
};

}  // namespace plait
