// The fields of one JSON object, each read by name and type. The text is strict JSON in UTF-8 of at
// most kMaxConfigBytes, nested at most kMaxConfigNesting deep; a name that an object has twice is
// refused, for readers differ in which one they take.
// The getters keep the first problem in status() and return the fallback from then on, so that a
// reader can ask for everything first and check once.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace plait {

inline constexpr size_t kMaxConfigBytes = size_t{1} << 20;
inline constexpr int kMaxConfigNesting = 32;
inline constexpr int64_t kMaxConfigInteger = (int64_t{1} << 31) - 1;

class ConfigFields {
 public:
  // `name` stands for the text in errors ("folder/config.json"). InvalidArgument where the text is
  // no such object.
  static absl::StatusOr<ConfigFields> Parse(const std::string& text, const std::string& name);

  ConfigFields(ConfigFields&&);
  ~ConfigFields();

  bool Contains(const std::string& field) const;  // null, too
  bool Has(const std::string& field) const;       // and it is not null
  bool IsString(const std::string& field, const std::string& text) const;

  // Absent: the fallback. null is a value of another type, hence a problem. Integers go up to
  // kMaxConfigInteger, so that products of two cannot overflow.
  int64_t Integer(const std::string& field, int64_t fallback, int64_t minimum);
  double Number(const std::string& field, double fallback);
  bool Boolean(const std::string& field, bool fallback);
  std::string String(const std::string& field, const std::string& fallback);
  // Absent or null: none.
  std::optional<int64_t> OptionalInteger(const std::string& field, int64_t minimum);
  std::vector<std::string> Strings(const std::string& field);
  // One integer or a list of them.
  std::vector<int64_t> Integers(const std::string& field, int64_t minimum);
  // The field's own fields, "name: field" in errors; empty where absent or null. Its status() is
  // its own: give it to Take.
  ConfigFields Object(const std::string& field);
  void Take(const absl::Status& status) { status_.Update(status); }

  // Counts as read, whatever it holds.
  void Ignore(const std::string& field) { read_.insert(field); }
  // "name: field = value rule", unless there is a problem already.
  void Refuse(const std::string& field, const std::string& rule);
  // As Refuse, where the field is neither absent nor null, false, 0 or empty.
  void RefuseIfSet(const std::string& field, const std::string& rule);

  // "field = value" of the fields that nobody asked for, in the order of the text.
  std::vector<std::string> Unread() const;
  const absl::Status& status() const { return status_; }

 private:
  struct Document;
  ConfigFields(std::shared_ptr<const Document> document, std::string name);
  std::string Value(const std::string& field) const;
  void Expect(const std::string& field, const std::string& what);

  std::shared_ptr<const Document> document_;
  std::string name_;
  std::set<std::string> read_;
  absl::Status status_;
};

}  // namespace plait
