// The tests of `value is test`.
#include "engine/status_macros.h"
#include "engine/text/jinja/jinja_calls.h"
#include "engine/text/jinja/jinja_operators.h"
#include "engine/text/jinja/jinja_text_operations.h"

namespace sluice {
namespace {

using Predicate = bool (*)(const JinjaValue& value);
struct PredicateEntry {
  const char* name;
  Predicate predicate;
};
struct ComparisonEntry {
  const char* name;
  JinjaOperator op;
};

bool IsTrue(const JinjaValue& value) { return value.boolean() != nullptr && *value.boolean(); }
bool IsFalse(const JinjaValue& value) { return value.boolean() != nullptr && !*value.boolean(); }
bool IsNumber(const JinjaValue& value) {
  return value.integer() != nullptr || value.floating() != nullptr || value.boolean() != nullptr;
}
bool IsSequence(const JinjaValue& value) {
  return value.text() != nullptr || value.list() != nullptr || value.dict() != nullptr ||
         value.is_undefined();
}
bool IsCallable(const JinjaValue& value) {
  return value.function() != nullptr || value.macro() != nullptr;
}
// Text that has letters with two cases, all of them in this one.
absl::StatusOr<bool> IsInCase(const JinjaCall& call,
                              JinjaLetterCase wanted,
                              JinjaLetterCase other) {
  const TemplateText* text = call.input.text();
  if (text == nullptr) return false;
  ASSIGN_OR_RETURN(const TemplateText same, ChangeCase(*text, wanted, call.budget));
  if (same.text() != text->text()) return false;
  ASSIGN_OR_RETURN(const TemplateText changed, ChangeCase(*text, other, call.budget));
  return changed.text() != text->text();
}

constexpr PredicateEntry kPredicates[] = {
    {"defined", [](const JinjaValue& value) { return !value.is_undefined(); }},
    {"undefined", [](const JinjaValue& value) { return value.is_undefined(); }},
    {"none", [](const JinjaValue& value) { return value.is_none(); }},
    {"boolean", [](const JinjaValue& value) { return value.boolean() != nullptr; }},
    {"true", &IsTrue},
    {"false", &IsFalse},
    {"integer", [](const JinjaValue& value) { return value.integer() != nullptr; }},
    {"float", [](const JinjaValue& value) { return value.floating() != nullptr; }},
    {"number", &IsNumber},
    {"string", [](const JinjaValue& value) { return value.text() != nullptr; }},
    {"mapping", [](const JinjaValue& value) { return value.dict() != nullptr; }},
    {"iterable", &IsSequence},
    {"sequence", &IsSequence},
    {"callable", &IsCallable},
};

constexpr ComparisonEntry kComparisons[] = {
    {"equalto", JinjaOperator::kEqual},
    {"eq", JinjaOperator::kEqual},
    {"sameas", JinjaOperator::kEqual},
    {"ne", JinjaOperator::kNotEqual},
    {"lt", JinjaOperator::kLess},
    {"lessthan", JinjaOperator::kLess},
    {"le", JinjaOperator::kLessEqual},
    {"gt", JinjaOperator::kGreater},
    {"greaterthan", JinjaOperator::kGreater},
    {"ge", JinjaOperator::kGreaterEqual},
    {"in", JinjaOperator::kIn},
};

absl::StatusOr<bool> IsDivisible(const JinjaCall& call, int64_t divisor, int64_t remainder) {
  ASSIGN_OR_RETURN(const JinjaValue rest, JinjaArithmetic(JinjaOperator::kModulo, call.input,
                                                          JinjaValue::Int(divisor), call.budget));
  return JinjaEquals(rest, JinjaValue::Int(remainder), call.budget);
}

}  // namespace

bool IsJinjaTest(std::string_view name) {
  for (const PredicateEntry& entry : kPredicates) {
    if (name == entry.name) return true;
  }
  for (const ComparisonEntry& entry : kComparisons) {
    if (name == entry.name) return true;
  }
  return name == "lower" || name == "upper" || name == "odd" || name == "even" ||
         name == "divisibleby";
}

absl::StatusOr<bool> ApplyJinjaTest(std::string_view name, const JinjaCall& call) {
  for (const PredicateEntry& entry : kPredicates) {
    if (name == entry.name) return entry.predicate(call.input);
  }
  if (name == "lower") {
    return IsInCase(call, JinjaLetterCase::kLower, JinjaLetterCase::kUpper);
  }
  if (name == "upper") {
    return IsInCase(call, JinjaLetterCase::kUpper, JinjaLetterCase::kLower);
  }
  if (name == "odd") return IsDivisible(call, 2, 1);
  if (name == "even") return IsDivisible(call, 2, 0);
  const JinjaValue* argument = call.arguments.Get(0, "other");
  if (argument == nullptr) return JinjaError("this test needs an argument");
  for (const ComparisonEntry& entry : kComparisons) {
    if (name == entry.name) return JinjaCompare(entry.op, call.input, *argument, call.budget);
  }
  if (name != "divisibleby") return JinjaError("unknown test");
  ASSIGN_OR_RETURN(const int64_t divisor, call.IntArgument(0, "num", 1));
  return IsDivisible(call, divisor, 0);
}

}  // namespace sluice
