#include "engine/text/jinja/jinja_operators.h"

#include <cmath>
#include <cstring>
#include <optional>
#include <utility>

#include "engine/status_macros.h"
#include "engine/text/jinja/jinja_writer.h"

namespace sluice {
namespace {

// bool counts as an integer, as in Python.
std::optional<int64_t> AsInteger(const JinjaValue& value) {
  if (const int64_t* integer = value.integer()) return *integer;
  if (const bool* boolean = value.boolean()) return *boolean ? 1 : 0;
  return std::nullopt;
}

std::optional<double> AsNumber(const JinjaValue& value) {
  if (const double* number = value.floating()) return *number;
  const std::optional<int64_t> integer = AsInteger(value);
  if (integer.has_value()) return static_cast<double>(*integer);
  return std::nullopt;
}

JinjaResult Overflow() { return JinjaError("integer overflow"); }

JinjaResult IntegerPower(int64_t base, int64_t exponent) {
  int64_t result = 1;
  for (; exponent > 0; exponent >>= 1) {
    if ((exponent & 1) != 0 && __builtin_mul_overflow(result, base, &result)) return Overflow();
    if (exponent > 1 && __builtin_mul_overflow(base, base, &base)) return Overflow();
  }
  return JinjaValue::Int(result);
}

JinjaResult IntegerArithmetic(JinjaOperator op, int64_t a, int64_t b) {
  int64_t result = 0;
  switch (op) {
    case JinjaOperator::kAdd:
      return __builtin_add_overflow(a, b, &result) ? Overflow() : JinjaValue::Int(result);
    case JinjaOperator::kSubtract:
      return __builtin_sub_overflow(a, b, &result) ? Overflow() : JinjaValue::Int(result);
    case JinjaOperator::kMultiply:
      return __builtin_mul_overflow(a, b, &result) ? Overflow() : JinjaValue::Int(result);
    case JinjaOperator::kPower:
      if (b < 0) return JinjaValue::Float(std::pow(static_cast<double>(a), static_cast<double>(b)));
      return IntegerPower(a, b);
    default:
      break;
  }
  if (b == 0) return JinjaError("division by zero");
  if (op == JinjaOperator::kDivide) {
    return JinjaValue::Float(static_cast<double>(a) / static_cast<double>(b));
  }
  if (b == -1)
    return a == INT64_MIN ? Overflow() : JinjaValue::Int(op == JinjaOperator::kModulo ? 0 : -a);
  const int64_t remainder = a % b;
  const bool adjust = remainder != 0 && ((remainder < 0) != (b < 0));
  if (op == JinjaOperator::kModulo) return JinjaValue::Int(adjust ? remainder + b : remainder);
  return JinjaValue::Int(a / b - (adjust ? 1 : 0));
}

JinjaResult FloatArithmetic(JinjaOperator op, double a, double b) {
  switch (op) {
    case JinjaOperator::kAdd:
      return JinjaValue::Float(a + b);
    case JinjaOperator::kSubtract:
      return JinjaValue::Float(a - b);
    case JinjaOperator::kMultiply:
      return JinjaValue::Float(a * b);
    case JinjaOperator::kPower:
      return JinjaValue::Float(std::pow(a, b));
    default:
      break;
  }
  if (b == 0) return JinjaError("division by zero");
  if (op == JinjaOperator::kDivide) return JinjaValue::Float(a / b);
  if (op == JinjaOperator::kFloorDivide) return JinjaValue::Float(std::floor(a / b));
  return JinjaValue::Float(a - b * std::floor(a / b));
}

JinjaResult Concatenate(const JinjaValue& left, const JinjaValue& right, JinjaBudget& budget) {
  ASSIGN_OR_RETURN(TemplateText text, JinjaToText(left, budget));
  ASSIGN_OR_RETURN(const TemplateText tail, JinjaToText(right, budget));
  RETURN_IF_ERROR(budget.Bytes(text.stored_bytes() + tail.stored_bytes()));
  text.Append(tail);
  return JinjaValue::Text(std::move(text));
}

JinjaResult Repeat(const JinjaValue& value, int64_t count, JinjaBudget& budget) {
  const TemplateText* text = value.text();
  const size_t size =
      text != nullptr ? text->stored_bytes() : value.list()->items.size() * sizeof(JinjaValue);
  const size_t times = count > 0 ? static_cast<size_t>(count) : 0;
  if (size > 0 && times > (size_t{1} << 32) / size) return JinjaError("text limit exceeded");
  RETURN_IF_ERROR(budget.Bytes(size * times));
  if (text != nullptr) {
    TemplateText repeated;
    for (size_t i = 0; size > 0 && i < times; ++i) repeated.Append(*text);
    return JinjaValue::Text(std::move(repeated));
  }
  JinjaItems items;
  const JinjaItems& unit = value.list()->items;
  for (size_t i = 0; size > 0 && i < times; ++i)
    items.insert(items.end(), unit.begin(), unit.end());
  return JinjaValue::List(std::move(items), budget);
}

bool IsSequence(const JinjaValue& value) {
  return value.text() != nullptr || value.list() != nullptr;
}

absl::StatusOr<bool> ListEquals(const JinjaItems& left,
                                const JinjaItems& right,
                                JinjaBudget& budget) {
  if (left.size() != right.size()) return false;
  for (size_t i = 0; i < left.size(); ++i) {
    ASSIGN_OR_RETURN(const bool equal, JinjaEquals(left[i], right[i], budget));
    if (!equal) return false;
  }
  return true;
}

absl::StatusOr<bool> DictEquals(const JinjaDict& left,
                                const JinjaDict& right,
                                JinjaBudget& budget) {
  if (left.entries.size() != right.entries.size()) return false;
  for (const auto& [key, value] : left.entries) {
    ASSIGN_OR_RETURN(const JinjaValue* other, right.Find(key.text(), budget));
    if (other == nullptr) return false;
    ASSIGN_OR_RETURN(const bool equal, JinjaEquals(value, *other, budget));
    if (!equal) return false;
  }
  return true;
}

absl::StatusOr<bool> ListLess(const JinjaItems& left,
                              const JinjaItems& right,
                              JinjaBudget& budget) {
  for (size_t i = 0; i < left.size() && i < right.size(); ++i) {
    ASSIGN_OR_RETURN(const bool equal, JinjaEquals(left[i], right[i], budget));
    if (!equal) return JinjaLess(left[i], right[i], budget);
  }
  return left.size() < right.size();
}

}  // namespace

JinjaResult JinjaArithmetic(JinjaOperator op,
                            const JinjaValue& left,
                            const JinjaValue& right,
                            JinjaBudget& budget) {
  if (op == JinjaOperator::kConcatenate) return Concatenate(left, right, budget);
  const std::optional<int64_t> a = AsInteger(left);
  const std::optional<int64_t> b = AsInteger(right);
  if (a.has_value() && b.has_value()) return IntegerArithmetic(op, *a, *b);
  if (op == JinjaOperator::kMultiply && IsSequence(left) && b.has_value())
    return Repeat(left, *b, budget);
  if (op == JinjaOperator::kMultiply && IsSequence(right) && a.has_value()) {
    return Repeat(right, *a, budget);
  }
  if (op == JinjaOperator::kAdd && left.text() != nullptr && right.text() != nullptr) {
    return Concatenate(left, right, budget);
  }
  if (op == JinjaOperator::kAdd && left.list() != nullptr && right.list() != nullptr) {
    const size_t size = left.list()->items.size() + right.list()->items.size();
    RETURN_IF_ERROR(budget.Bytes(size * sizeof(JinjaValue)));
    JinjaItems items = left.list()->items;
    items.insert(items.end(), right.list()->items.begin(), right.list()->items.end());
    return JinjaValue::List(std::move(items), budget);
  }
  const std::optional<double> x = AsNumber(left);
  const std::optional<double> y = AsNumber(right);
  if (x.has_value() && y.has_value()) return FloatArithmetic(op, *x, *y);
  const JinjaValue& wrong = IsSequence(left) || x.has_value() ? right : left;
  return JinjaTypeError(wrong, "does not fit this operator");
}

JinjaResult JinjaNegate(const JinjaValue& value) {
  if (const double* number = value.floating()) return JinjaValue::Float(-*number);
  const std::optional<int64_t> integer = AsInteger(value);
  if (!integer.has_value()) return JinjaTypeError(value, "cannot be negated");
  if (*integer == INT64_MIN) return Overflow();
  return JinjaValue::Int(-*integer);
}

absl::StatusOr<bool> JinjaEquals(const JinjaValue& left,
                                 const JinjaValue& right,
                                 JinjaBudget& budget) {
  RETURN_IF_ERROR(budget.Step());
  const std::optional<int64_t> a = AsInteger(left);
  const std::optional<int64_t> b = AsInteger(right);
  if (a.has_value() && b.has_value()) return *a == *b;
  const std::optional<double> x = AsNumber(left);
  const std::optional<double> y = AsNumber(right);
  if (x.has_value() && y.has_value()) return *x == *y;
  if (left.text() != nullptr && right.text() != nullptr) {
    if (left.text()->size() != right.text()->size()) return false;
    RETURN_IF_ERROR(budget.Step(static_cast<int64_t>(left.text()->size() / 256)));
    return left.text()->text() == right.text()->text();
  }
  if (left.list() != nullptr && right.list() != nullptr) {
    return ListEquals(left.list()->items, right.list()->items, budget);
  }
  if (left.dict() != nullptr && right.dict() != nullptr) {
    return DictEquals(*left.dict(), *right.dict(), budget);
  }
  if (left.name_space() != nullptr) return left.name_space() == right.name_space();
  return (left.is_none() && right.is_none()) || (left.is_undefined() && right.is_undefined());
}

absl::StatusOr<bool> JinjaLess(const JinjaValue& left,
                               const JinjaValue& right,
                               JinjaBudget& budget) {
  RETURN_IF_ERROR(budget.Step());
  const std::optional<int64_t> a = AsInteger(left);
  const std::optional<int64_t> b = AsInteger(right);
  if (a.has_value() && b.has_value()) return *a < *b;
  const std::optional<double> x = AsNumber(left);
  const std::optional<double> y = AsNumber(right);
  if (x.has_value() && y.has_value()) return *x < *y;
  if (left.text() != nullptr && right.text() != nullptr) {
    RETURN_IF_ERROR(budget.Step(static_cast<int64_t>(left.text()->size() / 256)));
    return left.text()->text() < right.text()->text();
  }
  if (left.list() != nullptr && right.list() != nullptr) {
    return ListLess(left.list()->items, right.list()->items, budget);
  }
  return JinjaTypeError(left, std::string("has no order with ").append(right.type_name()));
}

absl::StatusOr<bool> JinjaContains(const JinjaValue& container,
                                   const JinjaValue& item,
                                   JinjaBudget& budget) {
  if (const TemplateText* text = container.text()) {
    if (item.text() == nullptr) return JinjaTypeError(item, "cannot be in a string");
    RETURN_IF_ERROR(budget.Step(1 + static_cast<int64_t>(text->size() / 32)));
    // memmem is linear in the text, where string::find is not.
    return memmem(text->text().data(), text->size(), item.text()->text().data(),
                  item.text()->size()) != nullptr;
  }
  if (const JinjaDict* dict = container.dict()) {
    if (item.text() == nullptr) return false;
    ASSIGN_OR_RETURN(const JinjaValue* found, dict->Find(item.text()->text(), budget));
    return found != nullptr;
  }
  if (const JinjaList* list = container.list()) {
    for (const JinjaValue& candidate : list->items) {
      ASSIGN_OR_RETURN(const bool equal, JinjaEquals(candidate, item, budget));
      if (equal) return true;
    }
    return false;
  }
  if (container.is_undefined()) return false;
  return JinjaTypeError(container, "cannot be searched with 'in'");
}

absl::StatusOr<bool> JinjaCompare(JinjaOperator op,
                                  const JinjaValue& left,
                                  const JinjaValue& right,
                                  JinjaBudget& budget) {
  const bool negate = op == JinjaOperator::kNotEqual || op == JinjaOperator::kLessEqual ||
                      op == JinjaOperator::kGreaterEqual || op == JinjaOperator::kNotIn;
  absl::StatusOr<bool> result = false;
  switch (op) {
    case JinjaOperator::kEqual:
    case JinjaOperator::kNotEqual:
      result = JinjaEquals(left, right, budget);
      break;
    case JinjaOperator::kLess:
    case JinjaOperator::kGreaterEqual:
      result = JinjaLess(left, right, budget);
      break;
    case JinjaOperator::kGreater:
    case JinjaOperator::kLessEqual:
      result = JinjaLess(right, left, budget);
      break;
    default:
      result = JinjaContains(right, left, budget);
      break;
  }
  if (!result.ok()) return result;
  return *result != negate;
}

}  // namespace sluice
