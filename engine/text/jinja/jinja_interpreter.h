// Runs a parsed chat template once. Values come in as globals, marked text comes out; nothing else
// is reachable. One instance per render, single threaded.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "engine/text/jinja/jinja_ast.h"
#include "engine/text/jinja/jinja_calls.h"
#include "engine/text/jinja/jinja_value.h"

namespace sluice {

class JinjaInterpreter {
 public:
  struct Settings {
    JinjaBudget::Limits limits;
    size_t max_output_bytes = 64 * 1024;
    int64_t unix_seconds = 0;  // what strftime_now shows, in UTC
  };

  explicit JinjaInterpreter(const Settings& settings);

  void SetGlobal(const std::string& name, JinjaValue value);
  JinjaBudget& budget() { return budget_; }

  // InvalidArgument when the template raises, misuses a value or exceeds a limit.
  absl::StatusOr<TemplateText> Render(const JinjaBody& body);

 private:
  enum class Flow { kNext, kBreak, kContinue };
  using Scope = absl::flat_hash_map<std::string, JinjaValue>;
  using FlowResult = absl::StatusOr<Flow>;

  FlowResult Execute(const JinjaBody& body);
  FlowResult ExecuteStatement(const JinjaStatement& statement);
  FlowResult ExecuteIf(const JinjaStatement& statement);
  FlowResult ExecuteFor(const JinjaStatement& statement);
  absl::StatusOr<JinjaItems> FilterItems(const JinjaStatement& statement, JinjaItems items);
  absl::Status ExecuteSetBlock(const JinjaStatement& statement);
  absl::Status Assign(const JinjaTarget& target, JinjaValue value);
  absl::Status Emit(const TemplateText& text);

  JinjaResult Evaluate(const JinjaExpression& expression);
  JinjaResult EvaluateKind(const JinjaExpression& expression);
  JinjaResult EvaluateItems(const JinjaExpression& expression);
  JinjaResult EvaluateDict(const JinjaExpression& expression);
  JinjaResult EvaluateChain(const JinjaExpression& expression);
  JinjaResult EvaluateCompare(const JinjaExpression& expression);
  JinjaResult EvaluateLogical(const JinjaExpression& expression, bool stop_at);
  JinjaResult EvaluateConditional(const JinjaExpression& expression);
  JinjaResult ApplySuffixes(const std::vector<JinjaSuffix>& suffixes, JinjaValue value);
  JinjaResult ApplySuffix(const JinjaSuffix& suffix, const JinjaValue& value);
  JinjaResult ApplySlice(const JinjaSuffix& suffix, const JinjaValue& value);
  JinjaResult Lookup(const std::string& name);

  absl::StatusOr<JinjaArguments> EvaluateArguments(const JinjaArgumentList& list);
  JinjaResult Call(const JinjaValue& callee, const JinjaArguments& arguments);
  JinjaResult CallMacro(const JinjaMacro& macro, const JinjaArguments& arguments);
  absl::Status BindParameters(const JinjaMacro& macro, const JinjaArguments& arguments);
  JinjaResult CallFunction(const std::string& name, const JinjaArguments& arguments);
  JinjaResult Range(const JinjaArguments& arguments);
  JinjaResult MakeNamespace(const JinjaArguments& arguments);
  JinjaResult MakeDict(const JinjaArguments& arguments);
  JinjaResult FormatNow(const JinjaArguments& arguments);

  Settings settings_;
  JinjaBudget budget_;
  std::vector<Scope> scopes_ = std::vector<Scope>(1);  // [0]: globals and top-level names
  size_t frame_ = 0;  // the first scope of the running macro; 0 outside of macros
  std::vector<TemplateText> outputs_ = std::vector<TemplateText>(1);
  int loop_depth_ = 0;
};

}  // namespace sluice
