// Values of the template interpreter. Lists and dicts never change once made and nest at most 64
// deep; only namespaces change, and those cannot be stored inside another value, so there are no
// cycles.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/text/jinja/jinja_budget.h"
#include "engine/text/jinja/template_text.h"

namespace sluice {

class JinjaValue;
struct JinjaMacro;

using JinjaResult = absl::StatusOr<JinjaValue>;
using JinjaItems = std::vector<JinjaValue>;

struct JinjaUndefined {};
struct JinjaNone {};
struct JinjaList;
struct JinjaDict;
struct JinjaNamespace;
struct JinjaLoop;
// A function that the interpreter knows by name (range, raise_exception, ...).
struct JinjaFunction {
  std::string name;
};

class JinjaValue {
 public:
  using Storage = std::variant<JinjaUndefined,
                               JinjaNone,
                               bool,
                               int64_t,
                               double,
                               std::shared_ptr<const TemplateText>,
                               std::shared_ptr<const JinjaList>,
                               std::shared_ptr<const JinjaDict>,
                               std::shared_ptr<JinjaNamespace>,
                               std::shared_ptr<const JinjaLoop>,
                               JinjaFunction,
                               const JinjaMacro*>;

  JinjaValue() : storage_(JinjaUndefined{}) {}
  static JinjaValue Undefined() { return JinjaValue(); }
  static JinjaValue None() { return JinjaValue(JinjaNone{}); }
  static JinjaValue Bool(bool value) { return JinjaValue(Storage(value)); }
  static JinjaValue Int(int64_t value) { return JinjaValue(Storage(value)); }
  static JinjaValue Size(size_t value) { return Int(static_cast<int64_t>(value)); }
  static JinjaValue Float(double value) { return JinjaValue(Storage(value)); }
  static JinjaValue Text(TemplateText text) {
    return JinjaValue(Storage(std::make_shared<const TemplateText>(std::move(text))));
  }
  static JinjaValue Text(std::string text) { return Text(TemplateText(std::move(text))); }
  // InvalidArgument when an item is a namespace or nests too deeply, or the budget is used up.
  static JinjaResult List(JinjaItems items, JinjaBudget& budget);
  static JinjaResult Dict(std::vector<std::pair<TemplateText, JinjaValue>> entries,
                          JinjaBudget& budget);

  explicit JinjaValue(Storage storage) : storage_(std::move(storage)) {}
  const Storage& storage() const { return storage_; }

  bool is_undefined() const { return std::holds_alternative<JinjaUndefined>(storage_); }
  bool is_none() const { return std::holds_alternative<JinjaNone>(storage_); }
  const bool* boolean() const { return std::get_if<bool>(&storage_); }
  const int64_t* integer() const { return std::get_if<int64_t>(&storage_); }
  const double* floating() const { return std::get_if<double>(&storage_); }
  const TemplateText* text() const { return Pointee<const TemplateText>(); }
  const JinjaList* list() const { return Pointee<const JinjaList>(); }
  const JinjaDict* dict() const { return Pointee<const JinjaDict>(); }
  JinjaNamespace* name_space() const { return Pointee<JinjaNamespace>(); }
  const JinjaLoop* loop() const { return Pointee<const JinjaLoop>(); }
  const JinjaFunction* function() const { return std::get_if<JinjaFunction>(&storage_); }
  const JinjaMacro* macro() const {
    const auto* found = std::get_if<const JinjaMacro*>(&storage_);
    return found == nullptr ? nullptr : *found;
  }

  // Python's names of types, for messages.
  const char* type_name() const;
  bool Truthy() const;
  // Levels of lists and dicts; 0 for plain values.
  int depth() const;

 private:
  template <typename T>
  T* Pointee() const {
    const auto* found = std::get_if<std::shared_ptr<T>>(&storage_);
    return found == nullptr ? nullptr : found->get();
  }
  Storage storage_;
};

struct JinjaList {
  JinjaItems items;
  int depth = 1;
};

struct JinjaDict {
  std::vector<std::pair<TemplateText, JinjaValue>> entries;
  int depth = 1;

  // Null where there is none; charges the comparisons.
  absl::StatusOr<const JinjaValue*> Find(std::string_view key, JinjaBudget& budget) const;
};

struct JinjaNamespace {
  std::vector<std::pair<std::string, JinjaValue>> entries;

  JinjaValue* Find(std::string_view key);
  // InvalidArgument when `value` cannot be stored.
  absl::Status Set(const std::string& key, JinjaValue value);
};

// The `loop` variable at one iteration.
struct JinjaLoop {
  std::shared_ptr<const JinjaItems> items;
  size_t index = 0;
  int loop_depth = 1;

  JinjaValue Attribute(std::string_view name) const;
};

// Charges a search for a key of `key_bytes` among `entries`.
absl::Status ChargeJinjaSearch(size_t entries, size_t key_bytes, JinjaBudget& budget);
// Charges a text that becomes a value of its own: with its marks, its value and its shared block.
absl::Status ChargeJinjaText(const TemplateText& text, JinjaBudget& budget);

// Shorthand for the errors of this folder.
absl::Status JinjaError(std::string_view message);
absl::Status JinjaTypeError(const JinjaValue& value, std::string_view problem);

}  // namespace sluice
