// The methods of strings, lists and dicts that templates use.
#include <algorithm>
#include <optional>
#include <utility>

#include "engine/status_macros.h"
#include "engine/text/jinja/jinja_calls.h"
#include "engine/text/jinja/jinja_operators.h"
#include "engine/text/jinja/jinja_text_operations.h"
#include "engine/text/utf8.h"

namespace sluice {
namespace {

// The characters of strip, the separator of split: a string, or none.
absl::StatusOr<std::optional<std::string_view>> OptionalText(const JinjaCall& call,
                                                             std::string_view name) {
  const JinjaValue* value = call.arguments.Get(0, name);
  if (value == nullptr || value->is_none()) return std::optional<std::string_view>();
  if (value->text() == nullptr) return JinjaTypeError(*value, "given where a string is needed");
  return std::optional<std::string_view>(value->text()->text());
}

template <bool left, bool right>
JinjaResult Strip(const JinjaCall& call) {
  ASSIGN_OR_RETURN(const std::optional<std::string_view> characters, OptionalText(call, "chars"));
  ASSIGN_OR_RETURN(TemplateText text, StripText(*call.input.text(), characters,
                                                {.left = left, .right = right}, call.budget));
  return JinjaValue::Text(std::move(text));
}

JinjaResult Split(const JinjaCall& call) {
  ASSIGN_OR_RETURN(const std::optional<std::string_view> separator, OptionalText(call, "sep"));
  ASSIGN_OR_RETURN(const int64_t max_splits, call.IntArgument(1, "maxsplit", -1));
  ASSIGN_OR_RETURN(JinjaItems parts,
                   SplitText(*call.input.text(), separator, max_splits, call.budget));
  return JinjaValue::List(std::move(parts), call.budget);
}

JinjaResult SplitLines(const JinjaCall& call) {
  ASSIGN_OR_RETURN(JinjaItems lines, SplitText(*call.input.text(), "\n", -1, call.budget));
  if (lines.back().text()->empty()) lines.pop_back();
  return JinjaValue::List(std::move(lines), call.budget);
}

template <bool at_start>
JinjaResult HasEnd(const JinjaCall& call) {
  const JinjaValue* wanted = call.arguments.Get(0, at_start ? "prefix" : "suffix");
  if (wanted == nullptr) return JinjaError("an argument is missing");
  JinjaItems candidates = {*wanted};
  if (wanted->list() != nullptr) candidates = wanted->list()->items;
  RETURN_IF_ERROR(call.budget.Step(static_cast<int64_t>(candidates.size())));
  const std::string& text = call.input.text()->text();
  bool found = false;
  for (const JinjaValue& candidate : candidates) {
    if (candidate.text() == nullptr)
      return JinjaTypeError(candidate, "given where a string is needed");
    RETURN_IF_ERROR(call.budget.Step(static_cast<int64_t>(candidate.text()->size() / 256)));
    const std::string& end = candidate.text()->text();
    found = found || (at_start ? text.starts_with(end) : text.ends_with(end));
  }
  return JinjaValue::Bool(found);
}

template <bool at_start>
JinjaResult RemoveEnd(const JinjaCall& call) {
  ASSIGN_OR_RETURN(const TemplateText end,
                   call.TextArgument(0, at_start ? "prefix" : "suffix", ""));
  const TemplateText& text = *call.input.text();
  RETURN_IF_ERROR(call.budget.Bytes(text.stored_bytes()));
  const bool has_end =
      at_start ? text.text().starts_with(end.text()) : text.text().ends_with(end.text());
  if (!has_end) return call.input;
  const size_t rest = text.size() - end.size();
  return JinjaValue::Text(at_start ? text.Substring(end.size(), text.size())
                                   : text.Substring(0, rest));
}

template <JinjaLetterCase letter_case>
JinjaResult Case(const JinjaCall& call) {
  ASSIGN_OR_RETURN(TemplateText text, ChangeCase(*call.input.text(), letter_case, call.budget));
  return JinjaValue::Text(std::move(text));
}

JinjaResult ReplaceMethod(const JinjaCall& call) { return ApplyJinjaFilter("replace", call); }

JinjaResult JoinMethod(const JinjaCall& call) {
  const JinjaValue* items = call.arguments.Get(0, "iterable");
  if (items == nullptr) return JinjaError("an argument is missing");
  JinjaArguments separator;
  separator.positional.push_back(call.input);
  return ApplyJinjaFilter("join", {*items, separator, call.budget});
}

JinjaResult Find(const JinjaCall& call) {
  ASSIGN_OR_RETURN(const TemplateText needle, call.TextArgument(0, "sub", ""));
  const std::string& text = call.input.text()->text();
  RETURN_IF_ERROR(call.budget.Characters(text.size()));
  const size_t at = FindText(text, needle.text(), 0);
  if (at == std::string::npos) return JinjaValue::Int(-1);
  return JinjaValue::Size(CountCodePoints(std::string_view(text).substr(0, at)));
}

JinjaResult CountOf(const JinjaCall& call) {
  ASSIGN_OR_RETURN(const TemplateText needle, call.TextArgument(0, "sub", ""));
  if (needle.empty()) return JinjaError("empty separator");
  const std::string& text = call.input.text()->text();
  RETURN_IF_ERROR(call.budget.Characters(text.size()));
  size_t count = 0;
  for (size_t at = FindText(text, needle.text(), 0); at != std::string::npos; ++count) {
    at = FindText(text, needle.text(), at + needle.size());
  }
  return JinjaValue::Size(count);
}

template <bool (*contains)(uint32_t)>
JinjaResult IsAll(const JinjaCall& call) {
  const std::string& text = call.input.text()->text();
  RETURN_IF_ERROR(call.budget.Characters(text.size()));
  bool all = !text.empty();
  for (size_t position = 0; all && position < text.size();) {
    all = contains(NextCodePoint(text, position));
  }
  return JinjaValue::Bool(all);
}

constexpr JinjaFilterEntry kTextMethods[] = {
    {"strip", &Strip<true, true>},
    {"lstrip", &Strip<true, false>},
    {"rstrip", &Strip<false, true>},
    {"split", &Split},
    {"splitlines", &SplitLines},
    {"startswith", &HasEnd<true>},
    {"endswith", &HasEnd<false>},
    {"removeprefix", &RemoveEnd<true>},
    {"removesuffix", &RemoveEnd<false>},
    {"upper", &Case<JinjaLetterCase::kUpper>},
    {"lower", &Case<JinjaLetterCase::kLower>},
    {"title", &Case<JinjaLetterCase::kTitle>},
    {"capitalize", &Case<JinjaLetterCase::kCapitalized>},
    {"replace", &ReplaceMethod},
    {"join", &JoinMethod},
    {"find", &Find},
    {"count", &CountOf},
    {"isdigit", &IsAll<&IsNumeric>},
    {"isalpha", &IsAll<&IsLetter>},
    {"isspace", &IsAll<&IsWhiteSpace>},
};

JinjaResult Items(const JinjaCall& call) {
  JinjaItems items;
  for (const auto& [key, value] : call.input.dict()->entries) {
    RETURN_IF_ERROR(ChargeJinjaText(key, call.budget));
    ASSIGN_OR_RETURN(JinjaValue pair,
                     JinjaValue::List({JinjaValue::Text(key), value}, call.budget));
    items.push_back(std::move(pair));
  }
  return JinjaValue::List(std::move(items), call.budget);
}

JinjaResult Keys(const JinjaCall& call) { return ApplyJinjaFilter("list", call); }

JinjaResult Values(const JinjaCall& call) {
  JinjaItems values;
  for (const auto& [key, value] : call.input.dict()->entries) values.push_back(value);
  return JinjaValue::List(std::move(values), call.budget);
}

JinjaResult GetValue(const JinjaCall& call) {
  ASSIGN_OR_RETURN(const TemplateText key, call.TextArgument(0, "key", ""));
  ASSIGN_OR_RETURN(const JinjaValue* found, call.input.dict()->Find(key.text(), call.budget));
  if (found != nullptr) return *found;
  const JinjaValue* fallback = call.arguments.Get(1, "default");
  return fallback == nullptr ? JinjaValue::None() : *fallback;
}

constexpr JinjaFilterEntry kDictMethods[] = {
    {"items", &Items},
    {"keys", &Keys},
    {"values", &Values},
    {"get", &GetValue},
};

JinjaResult Cycle(const JinjaCall& call) {
  const JinjaItems& choices = call.arguments.positional;
  if (choices.empty()) return JinjaError("nothing to cycle through");
  return choices[call.input.loop()->index % choices.size()];
}

JinjaFilter FindMethod(const JinjaValue& value, std::string_view name) {
  if (value.text() != nullptr) {
    for (const JinjaFilterEntry& entry : kTextMethods) {
      if (name == entry.name) return entry.filter;
    }
  }
  if (value.dict() != nullptr) {
    for (const JinjaFilterEntry& entry : kDictMethods) {
      if (name == entry.name) return entry.filter;
    }
  }
  return value.loop() != nullptr && name == "cycle" ? &Cycle : nullptr;
}

}  // namespace

bool HasJinjaMethod(const JinjaValue& value, std::string_view name) {
  return FindMethod(value, name) != nullptr;
}

JinjaResult CallJinjaMethod(std::string_view name, const JinjaCall& call) {
  const JinjaFilter method = FindMethod(call.input, name);
  if (method == nullptr) return JinjaTypeError(call.input, "has no such method");
  return method(call);
}

}  // namespace sluice
