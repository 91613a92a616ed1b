#include "engine/text/jinja/jinja_calls.h"

#include "absl/strings/numbers.h"
#include "engine/status_macros.h"
#include "engine/text/jinja/jinja_operators.h"

namespace sluice {

const JinjaValue* JinjaArguments::Get(size_t index, std::string_view name) const {
  if (index < positional.size()) return &positional[index];
  for (const auto& [key, value] : named) {
    if (key == name) return &value;
  }
  return nullptr;
}

absl::StatusOr<bool> JinjaCall::BoolArgument(size_t index,
                                             std::string_view name,
                                             bool fallback) const {
  const JinjaValue* value = arguments.Get(index, name);
  return value == nullptr ? fallback : value->Truthy();
}

absl::StatusOr<int64_t> JinjaCall::IntArgument(size_t index,
                                               std::string_view name,
                                               int64_t fallback) const {
  const JinjaValue* value = arguments.Get(index, name);
  if (value == nullptr || value->is_none()) return fallback;
  const int64_t* integer = value->integer();
  if (integer == nullptr) return JinjaTypeError(*value, "given where an integer is needed");
  return *integer;
}

absl::StatusOr<TemplateText> JinjaCall::TextArgument(size_t index,
                                                     std::string_view name,
                                                     std::string_view fallback) const {
  const JinjaValue* value = arguments.Get(index, name);
  if (value == nullptr) return TemplateText(std::string(fallback));
  if (value->text() == nullptr) return JinjaTypeError(*value, "given where a string is needed");
  // A filter that map calls for every item copies its arguments every time.
  RETURN_IF_ERROR(budget.Step(static_cast<int64_t>(value->text()->stored_bytes() / 256)));
  return *value->text();
}

namespace {

JinjaFilter FindFilter(std::string_view name) {
  if (JinjaFilter filter = FindTextFilter(name)) return filter;
  if (JinjaFilter filter = FindListFilter(name)) return filter;
  return FindNumberFilter(name);
}

}  // namespace

bool IsJinjaFilter(std::string_view name) { return FindFilter(name) != nullptr; }

JinjaResult ApplyJinjaFilter(std::string_view name, const JinjaCall& call) {
  const JinjaFilter filter = FindFilter(name);
  if (filter == nullptr) return JinjaError("unknown filter");
  const JinjaDepthScope scope(call.budget);  // map calls filters that may be map
  RETURN_IF_ERROR(call.budget.Enter());
  return filter(call);
}

JinjaResult JinjaAttributePath(const JinjaValue& value,
                               std::string_view path,
                               JinjaBudget& budget) {
  JinjaValue at = value;
  while (true) {
    const size_t dot = path.find('.');
    const std::string part(path.substr(0, dot));
    RETURN_IF_ERROR(budget.Characters(part.size()));
    int64_t index = 0;
    if (absl::SimpleAtoi(part, &index)) {
      ASSIGN_OR_RETURN(at, JinjaItem(at, JinjaValue::Int(index), budget));
    } else {
      ASSIGN_OR_RETURN(at, JinjaAttribute(at, part, budget));
    }
    if (dot == std::string_view::npos) return at;
    path.remove_prefix(dot + 1);
  }
}

}  // namespace sluice
