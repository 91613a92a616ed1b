#include "engine/text/jinja/jinja_value.h"

#include <algorithm>

#include "engine/status_macros.h"

namespace sluice {
namespace {

constexpr int kMaxValueDepth = 64;

absl::Status CheckStorable(const JinjaValue& value) {
  if (value.name_space() != nullptr) return JinjaError("a namespace cannot be stored in a value");
  if (value.depth() >= kMaxValueDepth) return JinjaError("values nest too deeply");
  return absl::OkStatus();
}

}  // namespace

absl::Status ChargeJinjaSearch(size_t entries, size_t key_bytes, JinjaBudget& budget) {
  // Names of other lengths are passed over; those of the same are compared byte for byte.
  return budget.Step(static_cast<int64_t>(entries * (16 + key_bytes) / 256));
}

absl::Status ChargeJinjaText(const TemplateText& text, JinjaBudget& budget) {
  constexpr size_t kSharedCounts = 16;
  return budget.Bytes(sizeof(JinjaValue) + sizeof(TemplateText) + kSharedCounts +
                      text.stored_bytes());
}

absl::Status JinjaError(std::string_view message) {
  return absl::InvalidArgumentError(std::string("chat template: ").append(message));
}

absl::Status JinjaTypeError(const JinjaValue& value, std::string_view problem) {
  return JinjaError(std::string(value.type_name()).append(" ").append(problem));
}

JinjaResult JinjaValue::List(JinjaItems items, JinjaBudget& budget) {
  absl::Status status = budget.Bytes(items.size() * sizeof(JinjaValue));
  auto list = std::make_shared<JinjaList>();
  for (const JinjaValue& item : items) {
    if (status.ok()) status = CheckStorable(item);
    list->depth = std::max(list->depth, item.depth() + 1);
  }
  if (!status.ok()) return status;
  list->items = std::move(items);
  return JinjaValue(Storage(std::shared_ptr<const JinjaList>(std::move(list))));
}

JinjaResult JinjaValue::Dict(std::vector<std::pair<TemplateText, JinjaValue>> entries,
                             JinjaBudget& budget) {
  absl::Status status = budget.Bytes(entries.size() * 2 * sizeof(JinjaValue));
  auto dict = std::make_shared<JinjaDict>();
  for (const auto& [key, item] : entries) {
    if (status.ok()) status = CheckStorable(item);
    dict->depth = std::max(dict->depth, item.depth() + 1);
  }
  if (!status.ok()) return status;
  dict->entries = std::move(entries);
  return JinjaValue(Storage(std::shared_ptr<const JinjaDict>(std::move(dict))));
}

const char* JinjaValue::type_name() const {
  if (is_undefined()) return "undefined";
  if (is_none()) return "none";
  if (boolean() != nullptr) return "bool";
  if (integer() != nullptr) return "int";
  if (floating() != nullptr) return "float";
  if (text() != nullptr) return "string";
  if (list() != nullptr) return "list";
  if (dict() != nullptr) return "dict";
  if (name_space() != nullptr) return "namespace";
  if (loop() != nullptr) return "loop";
  return "function";
}

bool JinjaValue::Truthy() const {
  if (is_undefined() || is_none()) return false;
  if (const bool* value = boolean()) return *value;
  if (const int64_t* value = integer()) return *value != 0;
  if (const double* value = floating()) return *value != 0;
  if (const TemplateText* value = text()) return !value->empty();
  if (const JinjaList* value = list()) return !value->items.empty();
  if (const JinjaDict* value = dict()) return !value->entries.empty();
  return true;
}

int JinjaValue::depth() const {
  if (const JinjaList* value = list()) return value->depth;
  if (const JinjaDict* value = dict()) return value->depth;
  // A loop keeps the items that it walks.
  if (loop() != nullptr) return kMaxValueDepth;
  return 0;
}

absl::StatusOr<const JinjaValue*> JinjaDict::Find(std::string_view key, JinjaBudget& budget) const {
  RETURN_IF_ERROR(ChargeJinjaSearch(entries.size(), key.size(), budget));
  for (const auto& [name, value] : entries) {
    if (name.text() == key) return &value;
  }
  return static_cast<const JinjaValue*>(nullptr);
}

JinjaValue* JinjaNamespace::Find(std::string_view key) {
  for (auto& [name, value] : entries) {
    if (name == key) return &value;
  }
  return nullptr;
}

absl::Status JinjaNamespace::Set(const std::string& key, JinjaValue value) {
  absl::Status status = CheckStorable(value);
  if (!status.ok()) return status;
  if (JinjaValue* found = Find(key)) {
    *found = std::move(value);
  } else {
    entries.emplace_back(key, std::move(value));
  }
  return absl::OkStatus();
}

JinjaValue JinjaLoop::Attribute(std::string_view name) const {
  const size_t length = items->size();
  if (name == "index") return JinjaValue::Size(index + 1);
  if (name == "index0") return JinjaValue::Size(index);
  if (name == "revindex") return JinjaValue::Size(length - index);
  if (name == "revindex0") return JinjaValue::Size(length - index - 1);
  if (name == "first") return JinjaValue::Bool(index == 0);
  if (name == "last") return JinjaValue::Bool(index + 1 == length);
  if (name == "length") return JinjaValue::Size(length);
  if (name == "depth") return JinjaValue::Int(loop_depth);
  if (name == "depth0") return JinjaValue::Int(loop_depth - 1);
  if (name == "previtem" && index > 0) return (*items)[index - 1];
  if (name == "nextitem" && index + 1 < length) return (*items)[index + 1];
  return JinjaValue::Undefined();
}

}  // namespace sluice
