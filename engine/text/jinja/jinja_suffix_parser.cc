// What may follow a value in an expression: attributes, subscripts, calls, filters and tests.
#include <utility>

#include "engine/status_macros.h"
#include "engine/text/jinja/jinja_calls.h"
#include "engine/text/jinja/jinja_expression_parser.h"

namespace sluice {

JinjaExpressionParser::Result JinjaExpressionParser::ParseSuffixes(JinjaExpressionPtr base,
                                                                   bool with_filter) {
  std::vector<JinjaSuffix> suffixes;
  while (true) {
    if (stream_.TakeOperator(".")) {
      ASSIGN_OR_RETURN(JinjaSuffix suffix, ParseAttribute());
      suffixes.push_back(std::move(suffix));
    } else if (stream_.TakeOperator("[")) {
      ASSIGN_OR_RETURN(JinjaSuffix suffix, ParseSubscript());
      suffixes.push_back(std::move(suffix));
    } else if (stream_.TakeOperator("(")) {
      JinjaSuffix suffix;
      suffix.kind = JinjaSuffix::Kind::kCall;
      ASSIGN_OR_RETURN(suffix.arguments, ParseArguments());
      suffixes.push_back(std::move(suffix));
    } else if (with_filter && stream_.TakeOperator("|")) {
      ASSIGN_OR_RETURN(JinjaSuffix suffix, ParseFilter());
      suffixes.push_back(std::move(suffix));
    } else if (with_filter && stream_.TakeName("is")) {
      ASSIGN_OR_RETURN(JinjaSuffix suffix, ParseTest());
      suffixes.push_back(std::move(suffix));
    } else {
      break;
    }
  }
  if (suffixes.empty()) return base;
  JinjaExpressionPtr expression = Make(JinjaExpression::Kind::kSuffixes);
  expression->line = base->line;
  expression->children.push_back(std::move(base));
  expression->suffixes = std::move(suffixes);
  return expression;
}

absl::Status JinjaExpressionParser::ParseFilters(std::vector<JinjaSuffix>& suffixes) {
  while (stream_.TakeOperator("|")) {
    ASSIGN_OR_RETURN(JinjaSuffix suffix, ParseFilter());
    suffixes.push_back(std::move(suffix));
  }
  return absl::OkStatus();
}

absl::StatusOr<JinjaSuffix> JinjaExpressionParser::ParseAttribute() {
  JinjaSuffix suffix;
  if (stream_.peek().kind == JinjaTokenKind::kName) {
    suffix.name = stream_.Take().text;
    return suffix;
  }
  if (stream_.peek().kind != JinjaTokenKind::kInteger)
    return stream_.Error("expected a name after '.'");
  suffix.kind = JinjaSuffix::Kind::kItem;
  suffix.parts[0] = Make(JinjaExpression::Kind::kLiteral);
  suffix.parts[0]->literal = JinjaValue::Int(stream_.Take().integer);
  return suffix;
}

absl::StatusOr<JinjaSuffix> JinjaExpressionParser::ParseSubscript() {
  JinjaSuffix suffix;
  suffix.kind = JinjaSuffix::Kind::kItem;
  int part = 0;
  bool is_expected = true;
  while (!stream_.TakeOperator("]")) {
    if (stream_.TakeOperator(":")) {
      if (++part > 2) return stream_.Error("too many parts in a slice");
      suffix.kind = JinjaSuffix::Kind::kSlice;
      is_expected = true;
      continue;
    }
    if (!is_expected) return stream_.Error("expected ]");
    ASSIGN_OR_RETURN(suffix.parts[part], Parse());
    is_expected = false;
  }
  if (suffix.kind == JinjaSuffix::Kind::kItem && suffix.parts[0] == nullptr) {
    return stream_.Error("empty subscript");
  }
  return suffix;
}

absl::StatusOr<JinjaSuffix> JinjaExpressionParser::ParseFilter() {
  JinjaSuffix suffix;
  suffix.kind = JinjaSuffix::Kind::kFilter;
  if (stream_.peek().kind != JinjaTokenKind::kName) return stream_.Error("expected a filter");
  if (!IsJinjaFilter(stream_.peek().text)) return stream_.Error("unknown filter");
  suffix.name = stream_.Take().text;
  if (stream_.TakeOperator("(")) {
    ASSIGN_OR_RETURN(suffix.arguments, ParseArguments());
  }
  return suffix;
}

bool JinjaExpressionParser::TestTakesBareArgument() const {
  switch (stream_.peek().kind) {
    case JinjaTokenKind::kString:
    case JinjaTokenKind::kInteger:
    case JinjaTokenKind::kFloat:
      return true;
    case JinjaTokenKind::kName:
      return !stream_.IsName("else") && !stream_.IsName("or") && !stream_.IsName("and") &&
             !stream_.IsName("is") && !stream_.IsName("if") && !stream_.IsName("not") &&
             !stream_.IsName("in");
    case JinjaTokenKind::kOperator:
      return stream_.IsOperator("[") || stream_.IsOperator("{");
    default:
      return false;
  }
}

absl::StatusOr<JinjaSuffix> JinjaExpressionParser::ParseTest() {
  JinjaSuffix suffix;
  suffix.kind = JinjaSuffix::Kind::kTest;
  suffix.negated = stream_.TakeName("not");
  if (stream_.peek().kind != JinjaTokenKind::kName) return stream_.Error("expected a test");
  if (!IsJinjaTest(stream_.peek().text)) return stream_.Error("unknown test");
  suffix.name = stream_.Take().text;
  if (stream_.TakeOperator("(")) {
    ASSIGN_OR_RETURN(suffix.arguments, ParseArguments());
  } else if (TestTakesBareArgument()) {
    const JinjaNestingScope scope(stream_);
    RETURN_IF_ERROR(stream_.Enter());
    ASSIGN_OR_RETURN(JinjaExpressionPtr primary, ParsePrimary());
    ASSIGN_OR_RETURN(primary, ParseSuffixes(std::move(primary), /*with_filter=*/false));
    suffix.arguments.positional.push_back(std::move(primary));
  }
  return suffix;
}

absl::StatusOr<JinjaArgumentList> JinjaExpressionParser::ParseArguments() {
  JinjaArgumentList arguments;
  bool is_first = true;
  while (!stream_.TakeOperator(")")) {
    if (!is_first) RETURN_IF_ERROR(stream_.Expect(","));
    if (stream_.TakeOperator(")")) break;
    is_first = false;
    if (arguments.positional.size() + arguments.named.size() == kMaxJinjaArguments) {
      return stream_.Error("too many arguments");
    }
    if (stream_.IsOperator("*") || stream_.IsOperator("**")) {
      return stream_.Error("argument unpacking is not supported");
    }
    const bool is_named = stream_.peek().kind == JinjaTokenKind::kName &&
                          stream_.peek(1).kind == JinjaTokenKind::kOperator &&
                          stream_.peek(1).text == "=";
    if (is_named) {
      std::string name = stream_.Take().text;
      stream_.Take();
      ASSIGN_OR_RETURN(JinjaExpressionPtr value, Parse());
      arguments.named.emplace_back(std::move(name), std::move(value));
      continue;
    }
    ASSIGN_OR_RETURN(JinjaExpressionPtr value, Parse());
    if (!arguments.named.empty()) return stream_.Error("a positional argument follows a named one");
    arguments.positional.push_back(std::move(value));
  }
  return arguments;
}

}  // namespace sluice
