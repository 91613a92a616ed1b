// Parses the expressions of a chat template. Source of the grammar: pallets/jinja 3.1,
// src/jinja2/parser.py. Not for tags (jinja_parser.h).
#pragma once

#include "absl/status/statusor.h"
#include "engine/text/jinja/jinja_ast.h"
#include "engine/text/jinja/jinja_token_stream.h"

namespace sluice {

class JinjaExpressionParser {
 public:
  using Result = absl::StatusOr<JinjaExpressionPtr>;

  explicit JinjaExpressionParser(JinjaTokenStream& stream) : stream_(stream) {}

  // One expression; `a if b else c` only if `with_condition`.
  Result Parse(bool with_condition = true);
  // Expressions separated by commas become a list.
  Result ParseTuple(bool with_condition = true);
  // `| filter` parts after a block set.
  absl::Status ParseFilters(std::vector<JinjaSuffix>& suffixes);

 private:
  using Rule = Result (JinjaExpressionParser::*)();
  struct OperatorName {
    const char* text;
    JinjaOperator op;
  };

  Result ParseConditional();
  Result ParseOr();
  Result ParseAnd();
  Result ParseNot();
  Result ParseCompare();
  Result ParseSum();
  Result ParseConcatenation();
  Result ParseProduct();
  Result ParsePower();
  Result ParseUnary();
  Result ParseUnaryWith(bool with_filter);
  Result ParsePrimary();
  Result ParseName();
  Result ParseStrings();
  Result ParseParenthesis();
  Result ParseList();
  Result ParseDict();
  template <size_t N>
  Result ParseChain(Rule operand, const OperatorName (&operators)[N]);
  Result ParseLogical(Rule operand, const char* word, JinjaExpression::Kind kind);

  Result ParseSuffixes(JinjaExpressionPtr base, bool with_filter);
  absl::StatusOr<JinjaSuffix> ParseAttribute();
  absl::StatusOr<JinjaSuffix> ParseSubscript();
  absl::StatusOr<JinjaSuffix> ParseFilter();
  absl::StatusOr<JinjaSuffix> ParseTest();
  absl::StatusOr<JinjaArgumentList> ParseArguments();
  bool TestTakesBareArgument() const;

  JinjaExpressionPtr Make(JinjaExpression::Kind kind) const;

  JinjaTokenStream& stream_;
};

}  // namespace sluice
