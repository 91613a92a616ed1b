// Evaluation of expressions (members of JinjaInterpreter).
#include <utility>

#include "engine/status_macros.h"
#include "engine/text/jinja/jinja_interpreter.h"
#include "engine/text/jinja/jinja_operators.h"

namespace sluice {

using Kind = JinjaExpression::Kind;

JinjaResult JinjaInterpreter::Evaluate(const JinjaExpression& expression) {
  if (expression.kind == Kind::kLiteral) {
    RETURN_IF_ERROR(budget_.Step());
    return expression.literal;
  }
  const JinjaDepthScope scope(budget_);
  RETURN_IF_ERROR(budget_.Enter());
  return EvaluateKind(expression);
}

JinjaResult JinjaInterpreter::EvaluateKind(const JinjaExpression& expression) {
  switch (expression.kind) {
    case Kind::kLiteral:
      return expression.literal;
    case Kind::kName:
      return Lookup(expression.name);
    case Kind::kList:
      return EvaluateItems(expression);
    case Kind::kDict:
      return EvaluateDict(expression);
    case Kind::kChain:
      return EvaluateChain(expression);
    case Kind::kCompare:
      return EvaluateCompare(expression);
    case Kind::kAnd:
      return EvaluateLogical(expression, /*stop_at=*/false);
    case Kind::kOr:
      return EvaluateLogical(expression, /*stop_at=*/true);
    case Kind::kConditional:
      return EvaluateConditional(expression);
    default:
      break;
  }
  ASSIGN_OR_RETURN(JinjaValue value, Evaluate(*expression.children[0]));
  if (expression.kind == Kind::kNot) return JinjaValue::Bool(!value.Truthy());
  if (expression.kind == Kind::kNegate) return JinjaNegate(value);
  if (expression.kind == Kind::kSuffixes)
    return ApplySuffixes(expression.suffixes, std::move(value));
  // Unary plus: only numbers have it.
  RETURN_IF_ERROR(JinjaNegate(value).status());
  return value;
}

JinjaResult JinjaInterpreter::EvaluateItems(const JinjaExpression& expression) {
  JinjaItems items;
  for (const JinjaExpressionPtr& child : expression.children) {
    ASSIGN_OR_RETURN(JinjaValue item, Evaluate(*child));
    items.push_back(std::move(item));
  }
  return JinjaValue::List(std::move(items), budget_);
}

JinjaResult JinjaInterpreter::EvaluateDict(const JinjaExpression& expression) {
  std::vector<std::pair<TemplateText, JinjaValue>> entries;
  for (size_t i = 0; i + 1 < expression.children.size(); i += 2) {
    ASSIGN_OR_RETURN(const JinjaValue key, Evaluate(*expression.children[i]));
    ASSIGN_OR_RETURN(JinjaValue value, Evaluate(*expression.children[i + 1]));
    if (key.text() == nullptr) return JinjaError("keys of a dict must be strings");
    RETURN_IF_ERROR(ChargeJinjaText(*key.text(), budget_));
    RETURN_IF_ERROR(ChargeJinjaSearch(entries.size(), key.text()->size(), budget_));
    bool is_new = true;
    for (auto& [known, old_value] : entries) {
      if (known.text() != key.text()->text()) continue;
      old_value = value;
      is_new = false;
    }
    if (is_new) entries.emplace_back(*key.text(), std::move(value));
  }
  return JinjaValue::Dict(std::move(entries), budget_);
}

JinjaResult JinjaInterpreter::EvaluateChain(const JinjaExpression& expression) {
  ASSIGN_OR_RETURN(JinjaValue value, Evaluate(*expression.children[0]));
  for (size_t i = 0; i < expression.operators.size(); ++i) {
    ASSIGN_OR_RETURN(const JinjaValue right, Evaluate(*expression.children[i + 1]));
    RETURN_IF_ERROR(budget_.Step());
    ASSIGN_OR_RETURN(value, JinjaArithmetic(expression.operators[i], value, right, budget_));
  }
  return value;
}

JinjaResult JinjaInterpreter::EvaluateCompare(const JinjaExpression& expression) {
  ASSIGN_OR_RETURN(JinjaValue left, Evaluate(*expression.children[0]));
  for (size_t i = 0; i < expression.operators.size(); ++i) {
    ASSIGN_OR_RETURN(JinjaValue right, Evaluate(*expression.children[i + 1]));
    ASSIGN_OR_RETURN(const bool holds, JinjaCompare(expression.operators[i], left, right, budget_));
    if (!holds) return JinjaValue::Bool(false);
    left = std::move(right);
  }
  return JinjaValue::Bool(true);
}

JinjaResult JinjaInterpreter::EvaluateLogical(const JinjaExpression& expression, bool stop_at) {
  JinjaValue value;
  for (const JinjaExpressionPtr& child : expression.children) {
    ASSIGN_OR_RETURN(value, Evaluate(*child));
    if (value.Truthy() == stop_at) break;
  }
  return value;
}

JinjaResult JinjaInterpreter::EvaluateConditional(const JinjaExpression& expression) {
  ASSIGN_OR_RETURN(const JinjaValue condition, Evaluate(*expression.children[1]));
  if (condition.Truthy()) return Evaluate(*expression.children[0]);
  if (expression.children[2] == nullptr) return JinjaValue::Undefined();
  return Evaluate(*expression.children[2]);
}

JinjaResult JinjaInterpreter::ApplySuffixes(const std::vector<JinjaSuffix>& suffixes,
                                            JinjaValue value) {
  for (size_t i = 0; i < suffixes.size(); ++i) {
    RETURN_IF_ERROR(budget_.Step());
    const JinjaSuffix& suffix = suffixes[i];
    const bool is_method_call =
        suffix.kind == JinjaSuffix::Kind::kAttribute && i + 1 < suffixes.size() &&
        suffixes[i + 1].kind == JinjaSuffix::Kind::kCall && HasJinjaMethod(value, suffix.name);
    if (is_method_call) {
      ASSIGN_OR_RETURN(const JinjaArguments arguments, EvaluateArguments(suffixes[++i].arguments));
      const JinjaValue object = value;
      ASSIGN_OR_RETURN(value, CallJinjaMethod(suffix.name, {object, arguments, budget_}));
      continue;
    }
    ASSIGN_OR_RETURN(value, ApplySuffix(suffix, value));
  }
  return value;
}

JinjaResult JinjaInterpreter::ApplySuffix(const JinjaSuffix& suffix, const JinjaValue& value) {
  switch (suffix.kind) {
    case JinjaSuffix::Kind::kAttribute:
      return JinjaAttribute(value, suffix.name, budget_);
    case JinjaSuffix::Kind::kSlice:
      return ApplySlice(suffix, value);
    case JinjaSuffix::Kind::kItem: {
      ASSIGN_OR_RETURN(const JinjaValue key, Evaluate(*suffix.parts[0]));
      return JinjaItem(value, key, budget_);
    }
    default:
      break;
  }
  ASSIGN_OR_RETURN(const JinjaArguments arguments, EvaluateArguments(suffix.arguments));
  if (suffix.kind == JinjaSuffix::Kind::kCall) return Call(value, arguments);
  const JinjaCall call{value, arguments, budget_};
  if (suffix.kind == JinjaSuffix::Kind::kFilter) return ApplyJinjaFilter(suffix.name, call);
  ASSIGN_OR_RETURN(const bool holds, ApplyJinjaTest(suffix.name, call));
  return JinjaValue::Bool(holds != suffix.negated);
}

JinjaResult JinjaInterpreter::ApplySlice(const JinjaSuffix& suffix, const JinjaValue& value) {
  JinjaSliceBounds bounds;
  JinjaValue* const parts[] = {&bounds.start, &bounds.stop, &bounds.step};
  for (int i = 0; i < 3; ++i) {
    if (suffix.parts[i] == nullptr) continue;
    ASSIGN_OR_RETURN(*parts[i], Evaluate(*suffix.parts[i]));
  }
  return JinjaSlice(value, bounds, budget_);
}

absl::StatusOr<JinjaArguments> JinjaInterpreter::EvaluateArguments(const JinjaArgumentList& list) {
  JinjaArguments arguments;
  for (const JinjaExpressionPtr& expression : list.positional) {
    ASSIGN_OR_RETURN(JinjaValue value, Evaluate(*expression));
    arguments.positional.push_back(std::move(value));
  }
  for (const auto& [name, expression] : list.named) {
    ASSIGN_OR_RETURN(JinjaValue value, Evaluate(*expression));
    arguments.named.emplace_back(name, std::move(value));
  }
  return arguments;
}

}  // namespace sluice
