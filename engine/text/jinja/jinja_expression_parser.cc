#include "engine/text/jinja/jinja_expression_parser.h"

#include <optional>
#include <utility>

#include "engine/status_macros.h"

namespace sluice {
namespace {

using Kind = JinjaExpression::Kind;

}  // namespace

JinjaExpressionPtr JinjaExpressionParser::Make(Kind kind) const {
  auto expression = std::make_unique<JinjaExpression>();
  expression->kind = kind;
  expression->line = stream_.peek().line;
  return expression;
}

JinjaExpressionParser::Result JinjaExpressionParser::Parse(bool with_condition) {
  const JinjaNestingScope scope(stream_);
  RETURN_IF_ERROR(stream_.Enter());
  return with_condition ? ParseConditional() : ParseOr();
}

JinjaExpressionParser::Result JinjaExpressionParser::ParseTuple(bool with_condition) {
  ASSIGN_OR_RETURN(JinjaExpressionPtr first, Parse(with_condition));
  if (!stream_.IsOperator(",")) return first;
  JinjaExpressionPtr list = Make(Kind::kList);
  list->children.push_back(std::move(first));
  while (stream_.TakeOperator(",")) {
    const JinjaTokenKind next = stream_.peek().kind;
    const bool at_end = next == JinjaTokenKind::kBlockEnd || next == JinjaTokenKind::kVariableEnd ||
                        stream_.IsOperator(")") || stream_.IsOperator("=");
    if (at_end) break;
    ASSIGN_OR_RETURN(JinjaExpressionPtr item, Parse(with_condition));
    list->children.push_back(std::move(item));
  }
  return list;
}

JinjaExpressionParser::Result JinjaExpressionParser::ParseConditional() {
  ASSIGN_OR_RETURN(JinjaExpressionPtr value, ParseOr());
  constexpr int kMaxConditions = 8;  // `a if b if c` grows the tree to the left
  for (int count = 0; stream_.TakeName("if"); ++count) {
    if (count == kMaxConditions) return stream_.Error("nested too deeply");
    JinjaExpressionPtr conditional = Make(Kind::kConditional);
    ASSIGN_OR_RETURN(JinjaExpressionPtr condition, ParseOr());
    JinjaExpressionPtr alternative;
    if (stream_.TakeName("else")) {
      ASSIGN_OR_RETURN(alternative, Parse());
    }
    conditional->children.push_back(std::move(value));
    conditional->children.push_back(std::move(condition));
    conditional->children.push_back(std::move(alternative));
    value = std::move(conditional);
  }
  return value;
}

JinjaExpressionParser::Result JinjaExpressionParser::ParseLogical(Rule operand,
                                                                  const char* word,
                                                                  Kind kind) {
  ASSIGN_OR_RETURN(JinjaExpressionPtr first, (this->*operand)());
  if (!stream_.IsName(word)) return first;
  JinjaExpressionPtr logical = Make(kind);
  logical->children.push_back(std::move(first));
  while (stream_.TakeName(word)) {
    ASSIGN_OR_RETURN(JinjaExpressionPtr next, (this->*operand)());
    logical->children.push_back(std::move(next));
  }
  return logical;
}

JinjaExpressionParser::Result JinjaExpressionParser::ParseOr() {
  return ParseLogical(&JinjaExpressionParser::ParseAnd, "or", Kind::kOr);
}

JinjaExpressionParser::Result JinjaExpressionParser::ParseAnd() {
  return ParseLogical(&JinjaExpressionParser::ParseNot, "and", Kind::kAnd);
}

JinjaExpressionParser::Result JinjaExpressionParser::ParseNot() {
  if (!stream_.IsName("not")) return ParseCompare();
  bool negated = false;
  JinjaExpressionPtr negation = Make(Kind::kNot);
  while (stream_.TakeName("not")) negated = !negated;
  ASSIGN_OR_RETURN(JinjaExpressionPtr operand, ParseCompare());
  negation->children.push_back(std::move(operand));
  if (negated) return negation;
  JinjaExpressionPtr twice = Make(Kind::kNot);
  twice->children.push_back(std::move(negation));
  return twice;
}

JinjaExpressionParser::Result JinjaExpressionParser::ParseCompare() {
  constexpr OperatorName kOperators[] = {
      {"==", JinjaOperator::kEqual},  {"!=", JinjaOperator::kNotEqual},
      {"<", JinjaOperator::kLess},    {"<=", JinjaOperator::kLessEqual},
      {">", JinjaOperator::kGreater}, {">=", JinjaOperator::kGreaterEqual},
  };
  ASSIGN_OR_RETURN(JinjaExpressionPtr first, ParseSum());
  JinjaExpressionPtr compare;
  while (true) {
    std::optional<JinjaOperator> op;
    for (const OperatorName& candidate : kOperators) {
      if (!op.has_value() && stream_.TakeOperator(candidate.text)) op = candidate.op;
    }
    if (!op.has_value() && stream_.TakeName("in")) op = JinjaOperator::kIn;
    const bool is_not_in = !op.has_value() && stream_.IsName("not") &&
                           stream_.peek(1).kind == JinjaTokenKind::kName &&
                           stream_.peek(1).text == "in";
    if (is_not_in) {
      stream_.Take();
      stream_.Take();
      op = JinjaOperator::kNotIn;
    }
    if (!op.has_value()) break;
    if (compare == nullptr) {
      compare = Make(Kind::kCompare);
      compare->children.push_back(std::move(first));
    }
    ASSIGN_OR_RETURN(JinjaExpressionPtr next, ParseSum());
    compare->operators.push_back(*op);
    compare->children.push_back(std::move(next));
  }
  return compare == nullptr ? std::move(first) : std::move(compare);
}

template <size_t N>
JinjaExpressionParser::Result JinjaExpressionParser::ParseChain(
    Rule operand, const OperatorName (&operators)[N]) {
  ASSIGN_OR_RETURN(JinjaExpressionPtr first, (this->*operand)());
  JinjaExpressionPtr chain;
  while (true) {
    std::optional<JinjaOperator> op;
    for (const OperatorName& candidate : operators) {
      if (!op.has_value() && stream_.TakeOperator(candidate.text)) op = candidate.op;
    }
    if (!op.has_value()) break;
    if (chain == nullptr) {
      chain = Make(Kind::kChain);
      chain->children.push_back(std::move(first));
    }
    ASSIGN_OR_RETURN(JinjaExpressionPtr next, (this->*operand)());
    chain->operators.push_back(*op);
    chain->children.push_back(std::move(next));
  }
  return chain == nullptr ? std::move(first) : std::move(chain);
}

JinjaExpressionParser::Result JinjaExpressionParser::ParseSum() {
  constexpr OperatorName kOperators[] = {{"+", JinjaOperator::kAdd},
                                         {"-", JinjaOperator::kSubtract}};
  return ParseChain(&JinjaExpressionParser::ParseConcatenation, kOperators);
}

JinjaExpressionParser::Result JinjaExpressionParser::ParseConcatenation() {
  constexpr OperatorName kOperators[] = {{"~", JinjaOperator::kConcatenate}};
  return ParseChain(&JinjaExpressionParser::ParseProduct, kOperators);
}

JinjaExpressionParser::Result JinjaExpressionParser::ParseProduct() {
  constexpr OperatorName kOperators[] = {{"*", JinjaOperator::kMultiply},
                                         {"//", JinjaOperator::kFloorDivide},
                                         {"/", JinjaOperator::kDivide},
                                         {"%", JinjaOperator::kModulo}};
  return ParseChain(&JinjaExpressionParser::ParsePower, kOperators);
}

JinjaExpressionParser::Result JinjaExpressionParser::ParsePower() {
  constexpr OperatorName kOperators[] = {{"**", JinjaOperator::kPower}};
  return ParseChain(&JinjaExpressionParser::ParseUnary, kOperators);
}

JinjaExpressionParser::Result JinjaExpressionParser::ParseUnary() { return ParseUnaryWith(true); }

JinjaExpressionParser::Result JinjaExpressionParser::ParseUnaryWith(bool with_filter) {
  const bool is_minus = stream_.IsOperator("-");
  if (!is_minus && !stream_.IsOperator("+")) {
    ASSIGN_OR_RETURN(JinjaExpressionPtr primary, ParsePrimary());
    return ParseSuffixes(std::move(primary), with_filter);
  }
  const JinjaNestingScope scope(stream_);
  RETURN_IF_ERROR(stream_.Enter());
  JinjaExpressionPtr signed_value = Make(is_minus ? Kind::kNegate : Kind::kPlus);
  stream_.Take();
  ASSIGN_OR_RETURN(JinjaExpressionPtr operand, ParseUnaryWith(false));
  signed_value->children.push_back(std::move(operand));
  return ParseSuffixes(std::move(signed_value), with_filter);
}

JinjaExpressionParser::Result JinjaExpressionParser::ParsePrimary() {
  switch (stream_.peek().kind) {
    case JinjaTokenKind::kName:
      return ParseName();
    case JinjaTokenKind::kString:
      return ParseStrings();
    case JinjaTokenKind::kInteger: {
      JinjaExpressionPtr literal = Make(Kind::kLiteral);
      literal->literal = JinjaValue::Int(stream_.Take().integer);
      return literal;
    }
    case JinjaTokenKind::kFloat: {
      JinjaExpressionPtr literal = Make(Kind::kLiteral);
      literal->literal = JinjaValue::Float(stream_.Take().number);
      return literal;
    }
    default:
      break;
  }
  if (stream_.TakeOperator("(")) return ParseParenthesis();
  if (stream_.TakeOperator("[")) return ParseList();
  if (stream_.TakeOperator("{")) return ParseDict();
  return stream_.Error("expected an expression");
}

JinjaExpressionParser::Result JinjaExpressionParser::ParseName() {
  JinjaExpressionPtr expression = Make(Kind::kLiteral);
  std::string name = stream_.Take().text;
  if (name == "true" || name == "True") {
    expression->literal = JinjaValue::Bool(true);
  } else if (name == "false" || name == "False") {
    expression->literal = JinjaValue::Bool(false);
  } else if (name == "none" || name == "None") {
    expression->literal = JinjaValue::None();
  } else {
    expression->kind = Kind::kName;
    expression->name = std::move(name);
  }
  return expression;
}

// Neighbouring strings are one string.
JinjaExpressionParser::Result JinjaExpressionParser::ParseStrings() {
  JinjaExpressionPtr literal = Make(Kind::kLiteral);
  std::string text;
  while (stream_.peek().kind == JinjaTokenKind::kString) text += stream_.Take().text;
  literal->literal = JinjaValue::Text(std::move(text));
  return literal;
}

JinjaExpressionParser::Result JinjaExpressionParser::ParseParenthesis() {
  if (stream_.TakeOperator(")")) return Make(Kind::kList);
  ASSIGN_OR_RETURN(JinjaExpressionPtr inner, ParseTuple());
  RETURN_IF_ERROR(stream_.Expect(")"));
  return inner;
}

JinjaExpressionParser::Result JinjaExpressionParser::ParseList() {
  JinjaExpressionPtr list = Make(Kind::kList);
  while (!stream_.TakeOperator("]")) {
    if (!list->children.empty()) RETURN_IF_ERROR(stream_.Expect(","));
    if (stream_.TakeOperator("]")) break;
    ASSIGN_OR_RETURN(JinjaExpressionPtr item, Parse());
    list->children.push_back(std::move(item));
  }
  return list;
}

JinjaExpressionParser::Result JinjaExpressionParser::ParseDict() {
  JinjaExpressionPtr dict = Make(Kind::kDict);
  while (!stream_.TakeOperator("}")) {
    if (!dict->children.empty()) RETURN_IF_ERROR(stream_.Expect(","));
    if (stream_.TakeOperator("}")) break;
    ASSIGN_OR_RETURN(JinjaExpressionPtr key, Parse());
    RETURN_IF_ERROR(stream_.Expect(":"));
    ASSIGN_OR_RETURN(JinjaExpressionPtr value, Parse());
    dict->children.push_back(std::move(key));
    dict->children.push_back(std::move(value));
  }
  return dict;
}

}  // namespace sluice
