#include "engine/text/jinja/jinja_parser.h"

#include <initializer_list>
#include <string>
#include <utility>

#include "engine/status_macros.h"
#include "engine/text/jinja/jinja_expression_parser.h"
#include "engine/text/jinja/jinja_token_stream.h"

namespace sluice {
namespace {

using Statement = JinjaStatement;
using StatementResult = absl::StatusOr<std::unique_ptr<Statement>>;

class Parser {
 public:
  explicit Parser(std::vector<JinjaToken> tokens)
      : stream_(std::move(tokens)), expressions_(stream_) {}

  absl::StatusOr<JinjaBody> Run() {
    ASSIGN_OR_RETURN(JinjaBody body, ParseBody({}));
    if (stream_.peek().kind != JinjaTokenKind::kEnd) return stream_.Error("unexpected tag");
    return body;
  }

 private:
  std::unique_ptr<Statement> Make(Statement::Kind kind) const {
    auto statement = std::make_unique<Statement>();
    statement->kind = kind;
    statement->line = stream_.peek().line;
    return statement;
  }

  // Statements up to one of the tags `ends` (whose {% is consumed, but not its name), or to the
  // end.
  absl::StatusOr<JinjaBody> ParseBody(std::initializer_list<std::string_view> ends) {
    const JinjaNestingScope scope(stream_);
    RETURN_IF_ERROR(stream_.Enter());
    JinjaBody body;
    while (stream_.peek().kind != JinjaTokenKind::kEnd) {
      if (stream_.peek().kind == JinjaTokenKind::kText) {
        std::unique_ptr<Statement> text = Make(Statement::Kind::kText);
        text->text = stream_.Take().text;
        body.push_back(std::move(text));
      } else if (stream_.TakeKind(JinjaTokenKind::kVariableBegin)) {
        std::unique_ptr<Statement> output = Make(Statement::Kind::kOutput);
        ASSIGN_OR_RETURN(output->expression, expressions_.ParseTuple());
        if (!stream_.TakeKind(JinjaTokenKind::kVariableEnd)) return stream_.Error("expected }}");
        body.push_back(std::move(output));
      } else {
        stream_.Take();  // {%
        for (const std::string_view end : ends) {
          if (stream_.IsName(end)) return body;
        }
        ASSIGN_OR_RETURN(std::unique_ptr<Statement> statement, ParseTag());
        body.push_back(std::move(statement));
      }
    }
    if (ends.size() != 0) return stream_.Error("unfinished block");
    return body;
  }

  absl::Status EndTag() {
    if (stream_.TakeKind(JinjaTokenKind::kBlockEnd)) return absl::OkStatus();
    return stream_.Error("expected %}");
  }

  StatementResult ParseTag() {
    if (stream_.TakeName("if")) return ParseIf();
    if (stream_.TakeName("for")) return ParseFor();
    if (stream_.TakeName("set")) return ParseSet();
    if (stream_.TakeName("macro")) return ParseMacro();
    if (stream_.TakeName("generation")) return ParseGeneration();
    const bool is_break = stream_.IsName("break");
    if (is_break || stream_.IsName("continue")) {
      if (loop_depth_ == 0) return stream_.Error("break or continue outside a loop");
      stream_.Take();
      RETURN_IF_ERROR(EndTag());
      return Make(is_break ? Statement::Kind::kBreak : Statement::Kind::kContinue);
    }
    return stream_.Error("this tag is not supported");
  }

  StatementResult ParseIf() {
    std::unique_ptr<Statement> statement = Make(Statement::Kind::kIf);
    bool has_condition = true;
    while (true) {
      Statement::Branch branch;
      if (has_condition) {
        ASSIGN_OR_RETURN(branch.condition, expressions_.ParseTuple());
      }
      RETURN_IF_ERROR(EndTag());
      if (has_condition) {
        ASSIGN_OR_RETURN(branch.body, ParseBody({"elif", "else", "endif"}));
      } else {
        ASSIGN_OR_RETURN(branch.body, ParseBody({"endif"}));
      }
      statement->branches.push_back(std::move(branch));
      const std::string end = stream_.Take().text;
      if (end == "endif") break;
      has_condition = end == "elif";
    }
    RETURN_IF_ERROR(EndTag());
    return statement;
  }

  absl::StatusOr<JinjaTarget> ParseTarget() {
    JinjaTarget target;
    const bool in_parenthesis = stream_.TakeOperator("(");
    do {
      if (stream_.peek().kind != JinjaTokenKind::kName) return stream_.Error("expected a name");
      target.names.push_back(stream_.Take().text);
    } while (stream_.TakeOperator(","));
    if (in_parenthesis) RETURN_IF_ERROR(stream_.Expect(")"));
    return target;
  }

  StatementResult ParseFor() {
    std::unique_ptr<Statement> statement = Make(Statement::Kind::kFor);
    ASSIGN_OR_RETURN(statement->target, ParseTarget());
    if (!stream_.TakeName("in")) return stream_.Error("expected 'in'");
    ASSIGN_OR_RETURN(statement->expression, expressions_.ParseTuple(/*with_condition=*/false));
    if (stream_.TakeName("if")) {
      ASSIGN_OR_RETURN(statement->filter, expressions_.Parse());
    }
    if (stream_.IsName("recursive")) return stream_.Error("recursive loops are not supported");
    RETURN_IF_ERROR(EndTag());
    ++loop_depth_;
    absl::StatusOr<JinjaBody> body = ParseBody({"else", "endfor"});
    --loop_depth_;
    RETURN_IF_ERROR(body.status());
    statement->body = *std::move(body);
    if (stream_.Take().text == "else") {
      RETURN_IF_ERROR(EndTag());
      ASSIGN_OR_RETURN(statement->otherwise, ParseBody({"endfor"}));
      stream_.Take();
    }
    RETURN_IF_ERROR(EndTag());
    return statement;
  }

  StatementResult ParseSet() {
    std::unique_ptr<Statement> statement = Make(Statement::Kind::kSet);
    ASSIGN_OR_RETURN(statement->target, ParseTarget());
    if (statement->target.names.size() == 1 && stream_.TakeOperator(".")) {
      if (stream_.peek().kind != JinjaTokenKind::kName) return stream_.Error("expected a name");
      statement->target.attribute = stream_.Take().text;
    }
    if (stream_.TakeOperator("=")) {
      ASSIGN_OR_RETURN(statement->expression, expressions_.ParseTuple());
      RETURN_IF_ERROR(EndTag());
      return statement;
    }
    statement->kind = Statement::Kind::kSetBlock;
    // The filters apply to the text of the block, which stands for the missing first child.
    statement->expression = std::make_unique<JinjaExpression>();
    statement->expression->kind = JinjaExpression::Kind::kSuffixes;
    RETURN_IF_ERROR(expressions_.ParseFilters(statement->expression->suffixes));
    RETURN_IF_ERROR(EndTag());
    ASSIGN_OR_RETURN(statement->body, ParseBody({"endset"}));
    stream_.Take();
    RETURN_IF_ERROR(EndTag());
    return statement;
  }

  StatementResult ParseMacro() {
    std::unique_ptr<Statement> statement = Make(Statement::Kind::kMacro);
    JinjaMacro& macro = statement->macro;
    if (stream_.peek().kind != JinjaTokenKind::kName) return stream_.Error("expected a name");
    macro.name = stream_.Take().text;
    RETURN_IF_ERROR(stream_.Expect("("));
    while (!stream_.TakeOperator(")")) {
      if (!macro.parameters.empty()) RETURN_IF_ERROR(stream_.Expect(","));
      if (stream_.peek().kind != JinjaTokenKind::kName)
        return stream_.Error("expected a parameter");
      if (macro.parameters.size() == kMaxJinjaArguments) {
        return stream_.Error("too many parameters");
      }
      macro.parameters.push_back(stream_.Take().text);
      macro.defaults.emplace_back();
      if (stream_.TakeOperator("=")) {
        ASSIGN_OR_RETURN(macro.defaults.back(), expressions_.Parse());
      }
    }
    RETURN_IF_ERROR(EndTag());
    const int outer_loops = std::exchange(loop_depth_, 0);
    absl::StatusOr<JinjaBody> body = ParseBody({"endmacro"});
    loop_depth_ = outer_loops;
    RETURN_IF_ERROR(body.status());
    macro.body = *std::move(body);
    stream_.Take();
    stream_.TakeKind(JinjaTokenKind::kName);
    RETURN_IF_ERROR(EndTag());
    return statement;
  }

  // Marks the assistant's own text for training; it has no effect here.
  StatementResult ParseGeneration() {
    std::unique_ptr<Statement> statement = Make(Statement::Kind::kScope);
    RETURN_IF_ERROR(EndTag());
    ASSIGN_OR_RETURN(statement->body, ParseBody({"endgeneration"}));
    stream_.Take();
    RETURN_IF_ERROR(EndTag());
    return statement;
  }

  JinjaTokenStream stream_;
  JinjaExpressionParser expressions_;
  int loop_depth_ = 0;
};

}  // namespace

absl::StatusOr<JinjaBody> ParseJinja(std::string_view source) {
  ASSIGN_OR_RETURN(std::vector<JinjaToken> tokens, LexJinja(source));
  return Parser(std::move(tokens)).Run();
}

}  // namespace sluice
