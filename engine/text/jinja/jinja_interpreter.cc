#include "engine/text/jinja/jinja_interpreter.h"

#include "engine/status_macros.h"
#include "engine/text/jinja/jinja_operators.h"
#include "engine/text/jinja/jinja_writer.h"

namespace sluice {

using Kind = JinjaStatement::Kind;

JinjaInterpreter::JinjaInterpreter(const Settings& settings)
    : settings_(settings), budget_(settings.limits) {}

void JinjaInterpreter::SetGlobal(const std::string& name, JinjaValue value) {
  scopes_[0][name] = std::move(value);
}

absl::StatusOr<TemplateText> JinjaInterpreter::Render(const JinjaBody& body) {
  RETURN_IF_ERROR(Execute(body).status());
  return std::move(outputs_[0]);
}

JinjaInterpreter::FlowResult JinjaInterpreter::Execute(const JinjaBody& body) {
  for (const auto& statement : body) {
    ASSIGN_OR_RETURN(const Flow flow, ExecuteStatement(*statement));
    if (flow != Flow::kNext) return flow;
  }
  return Flow::kNext;
}

JinjaInterpreter::FlowResult JinjaInterpreter::ExecuteStatement(const JinjaStatement& statement) {
  const JinjaDepthScope scope(budget_);
  RETURN_IF_ERROR(budget_.Enter());
  switch (statement.kind) {
    case Kind::kText:
      RETURN_IF_ERROR(Emit(TemplateText(statement.text)));
      break;
    case Kind::kOutput: {
      ASSIGN_OR_RETURN(const JinjaValue value, Evaluate(*statement.expression));
      ASSIGN_OR_RETURN(const TemplateText text, JinjaToText(value, budget_));
      RETURN_IF_ERROR(Emit(text));
      break;
    }
    case Kind::kIf:
      return ExecuteIf(statement);
    case Kind::kFor:
      return ExecuteFor(statement);
    case Kind::kSet: {
      ASSIGN_OR_RETURN(JinjaValue value, Evaluate(*statement.expression));
      RETURN_IF_ERROR(Assign(statement.target, std::move(value)));
      break;
    }
    case Kind::kSetBlock:
      RETURN_IF_ERROR(ExecuteSetBlock(statement));
      break;
    case Kind::kMacro:
      scopes_.back()[statement.macro.name] = JinjaValue(JinjaValue::Storage(&statement.macro));
      break;
    case Kind::kScope:
      return Execute(statement.body);
    case Kind::kBreak:
      return Flow::kBreak;
    case Kind::kContinue:
      return Flow::kContinue;
  }
  return Flow::kNext;
}

absl::Status JinjaInterpreter::Emit(const TemplateText& text) {
  RETURN_IF_ERROR(budget_.Bytes(text.stored_bytes()));
  outputs_.back().Append(text);
  if (outputs_.back().size() <= settings_.max_output_bytes) return absl::OkStatus();
  return JinjaError("output limit exceeded");
}

JinjaInterpreter::FlowResult JinjaInterpreter::ExecuteIf(const JinjaStatement& statement) {
  for (const JinjaStatement::Branch& branch : statement.branches) {
    bool taken = branch.condition == nullptr;
    if (!taken) {
      ASSIGN_OR_RETURN(const JinjaValue condition, Evaluate(*branch.condition));
      taken = condition.Truthy();
    }
    if (taken) return Execute(branch.body);
  }
  return Flow::kNext;
}

// The items for which the loop's own condition holds.
absl::StatusOr<JinjaItems> JinjaInterpreter::FilterItems(const JinjaStatement& statement,
                                                         JinjaItems items) {
  if (statement.filter == nullptr) return items;
  JinjaItems kept;
  for (JinjaValue& item : items) {
    scopes_.emplace_back();
    absl::Status status = Assign(statement.target, item);
    JinjaResult condition = status.ok() ? Evaluate(*statement.filter) : JinjaResult(status);
    scopes_.pop_back();
    RETURN_IF_ERROR(condition.status());
    if (condition->Truthy()) kept.push_back(std::move(item));
  }
  return kept;
}

JinjaInterpreter::FlowResult JinjaInterpreter::ExecuteFor(const JinjaStatement& statement) {
  ASSIGN_OR_RETURN(const JinjaValue iterable, Evaluate(*statement.expression));
  ASSIGN_OR_RETURN(JinjaItems all_items, JinjaIterate(iterable, budget_));
  ASSIGN_OR_RETURN(all_items, FilterItems(statement, std::move(all_items)));
  const auto items = std::make_shared<const JinjaItems>(std::move(all_items));
  ++loop_depth_;
  absl::Status status;
  bool stopped = false;
  for (size_t i = 0; i < items->size() && status.ok() && !stopped; ++i) {
    status = budget_.Step();
    if (!status.ok()) break;
    scopes_.emplace_back();
    const auto loop = std::make_shared<const JinjaLoop>(JinjaLoop{items, i, loop_depth_});
    scopes_.back()["loop"] = JinjaValue(JinjaValue::Storage(loop));
    status = Assign(statement.target, (*items)[i]);
    if (status.ok()) {
      const FlowResult flow = Execute(statement.body);
      status = flow.status();
      stopped = flow.ok() && *flow == Flow::kBreak;
    }
    scopes_.pop_back();
  }
  --loop_depth_;
  RETURN_IF_ERROR(status);
  if (!items->empty()) return Flow::kNext;
  return Execute(statement.otherwise);
}

absl::Status JinjaInterpreter::ExecuteSetBlock(const JinjaStatement& statement) {
  outputs_.emplace_back();
  const absl::Status status = Execute(statement.body).status();
  JinjaValue value = JinjaValue::Text(std::move(outputs_.back()));
  outputs_.pop_back();
  RETURN_IF_ERROR(status);
  ASSIGN_OR_RETURN(value, ApplySuffixes(statement.expression->suffixes, std::move(value)));
  return Assign(statement.target, std::move(value));
}

absl::Status JinjaInterpreter::Assign(const JinjaTarget& target, JinjaValue value) {
  if (!target.attribute.empty()) {
    ASSIGN_OR_RETURN(const JinjaValue object, Lookup(target.names[0]));
    if (object.name_space() == nullptr) return JinjaError("only a namespace has attributes to set");
    const size_t entries = object.name_space()->entries.size();
    RETURN_IF_ERROR(ChargeJinjaSearch(entries, target.attribute.size(), budget_));
    return object.name_space()->Set(target.attribute, std::move(value));
  }
  if (target.names.size() == 1) {
    scopes_.back()[target.names[0]] = std::move(value);
    return absl::OkStatus();
  }
  ASSIGN_OR_RETURN(const JinjaItems items, JinjaIterate(value, budget_));
  if (items.size() != target.names.size()) return JinjaError("wrong number of values to unpack");
  for (size_t i = 0; i < items.size(); ++i) scopes_.back()[target.names[i]] = items[i];
  return absl::OkStatus();
}

JinjaResult JinjaInterpreter::Lookup(const std::string& name) {
  RETURN_IF_ERROR(budget_.Step(static_cast<int64_t>((scopes_.size() - frame_) / 8)));
  for (size_t i = scopes_.size(); i-- > frame_;) {
    const auto found = scopes_[i].find(name);
    if (found != scopes_[i].end()) return found->second;
  }
  const auto global = scopes_[0].find(name);
  if (global != scopes_[0].end()) return global->second;
  for (const char* function : {"range", "namespace", "dict", "raise_exception", "strftime_now"}) {
    if (name == function) return JinjaValue(JinjaValue::Storage(JinjaFunction{name}));
  }
  return JinjaValue::Undefined();
}

}  // namespace sluice
