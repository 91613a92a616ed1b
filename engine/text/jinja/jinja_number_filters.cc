// Filters on numbers.
#include <algorithm>
#include <cmath>

#include "absl/strings/numbers.h"
#include "engine/status_macros.h"
#include "engine/text/jinja/jinja_calls.h"
#include "engine/text/jinja/jinja_operators.h"

namespace sluice {
namespace {

constexpr double kInt64Limit = 9.2e18;

JinjaResult Truncated(double number) {
  if (!std::isfinite(number) || std::fabs(number) >= kInt64Limit)
    return JinjaError("integer overflow");
  return JinjaValue::Int(static_cast<int64_t>(number));
}

JinjaResult Fallback(const JinjaCall& call, JinjaValue usual) {
  const JinjaValue* given = call.arguments.Get(0, "default");
  return given == nullptr ? usual : *given;
}

JinjaResult Int(const JinjaCall& call) {
  if (call.input.integer() != nullptr) return call.input;
  if (const bool* boolean = call.input.boolean()) return JinjaValue::Int(*boolean ? 1 : 0);
  if (const double* number = call.input.floating()) return Truncated(*number);
  if (const TemplateText* text = call.input.text(); text != nullptr && text->size() <= 64) {
    int64_t integer = 0;
    double number = 0;
    if (absl::SimpleAtoi(text->text(), &integer)) return JinjaValue::Int(integer);
    if (absl::SimpleAtod(text->text(), &number) && std::isfinite(number)) return Truncated(number);
  }
  return Fallback(call, JinjaValue::Int(0));
}

JinjaResult Float(const JinjaCall& call) {
  if (call.input.floating() != nullptr) return call.input;
  if (const int64_t* integer = call.input.integer())
    return JinjaValue::Float(static_cast<double>(*integer));
  if (const TemplateText* text = call.input.text(); text != nullptr && text->size() <= 64) {
    double number = 0;
    if (absl::SimpleAtod(text->text(), &number)) return JinjaValue::Float(number);
  }
  return Fallback(call, JinjaValue::Float(0));
}

JinjaResult Abs(const JinjaCall& call) {
  const double* number = call.input.floating();
  if (number != nullptr) return JinjaValue::Float(std::fabs(*number));
  const int64_t* integer = call.input.integer();
  if (integer == nullptr) return JinjaTypeError(call.input, "has no absolute value");
  return *integer < 0 ? JinjaNegate(call.input) : JinjaResult(call.input);
}

JinjaResult Round(const JinjaCall& call) {
  ASSIGN_OR_RETURN(const int64_t precision, call.IntArgument(0, "precision", 0));
  ASSIGN_OR_RETURN(const TemplateText method, call.TextArgument(1, "method", "common"));
  double number = 0;
  if (const double* given = call.input.floating()) {
    number = *given;
  } else if (const int64_t* integer = call.input.integer()) {
    number = static_cast<double>(*integer);
  } else {
    return JinjaTypeError(call.input, "cannot be rounded");
  }
  const double scale = std::pow(10.0, static_cast<double>(std::clamp<int64_t>(precision, -15, 15)));
  const double scaled = number * scale;
  if (method.text() == "ceil") return JinjaValue::Float(std::ceil(scaled) / scale);
  if (method.text() == "floor") return JinjaValue::Float(std::floor(scaled) / scale);
  return JinjaValue::Float(std::nearbyint(scaled) / scale);
}

JinjaResult Sum(const JinjaCall& call) {
  ASSIGN_OR_RETURN(const JinjaItems items, JinjaIterate(call.input, call.budget));
  ASSIGN_OR_RETURN(const TemplateText attribute, call.TextArgument(0, "attribute", ""));
  JinjaValue sum = JinjaValue::Int(0);
  for (const JinjaValue& item : items) {
    JinjaValue term = item;
    if (!attribute.empty()) {
      ASSIGN_OR_RETURN(term, JinjaAttributePath(item, attribute.text(), call.budget));
    }
    ASSIGN_OR_RETURN(sum, JinjaArithmetic(JinjaOperator::kAdd, sum, term, call.budget));
  }
  return sum;
}

template <bool largest>
JinjaResult Extreme(const JinjaCall& call) {
  ASSIGN_OR_RETURN(const JinjaItems items, JinjaIterate(call.input, call.budget));
  if (items.empty()) return JinjaValue::Undefined();
  JinjaValue best = items[0];
  for (const JinjaValue& item : items) {
    ASSIGN_OR_RETURN(const bool better, largest ? JinjaLess(best, item, call.budget)
                                                : JinjaLess(item, best, call.budget));
    if (better) best = item;
  }
  return best;
}

}  // namespace

JinjaFilter FindNumberFilter(std::string_view name) {
  constexpr JinjaFilterEntry kFilters[] = {
      {"int", &Int}, {"float", &Float},        {"abs", &Abs},           {"round", &Round},
      {"sum", &Sum}, {"min", &Extreme<false>}, {"max", &Extreme<true>},
  };
  for (const JinjaFilterEntry& entry : kFilters) {
    if (name == entry.name) return entry.filter;
  }
  return nullptr;
}

}  // namespace sluice
