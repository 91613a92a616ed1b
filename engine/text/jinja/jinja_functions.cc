// Macros and the global functions of chat templates (members of JinjaInterpreter).
#include <algorithm>
#include <ctime>
#include <utility>

#include "engine/status_macros.h"
#include "engine/text/jinja/jinja_interpreter.h"
#include "engine/text/jinja/jinja_operators.h"

namespace sluice {
namespace {

constexpr int64_t kMaxRange = 100'000;  // as Jinja's own sandbox
constexpr size_t kMaxRaisedBytes = 256;

}  // namespace

JinjaResult JinjaInterpreter::Call(const JinjaValue& callee, const JinjaArguments& arguments) {
  if (callee.macro() != nullptr) return CallMacro(*callee.macro(), arguments);
  if (callee.function() != nullptr) return CallFunction(callee.function()->name, arguments);
  return JinjaTypeError(callee, "cannot be called");
}

JinjaResult JinjaInterpreter::CallMacro(const JinjaMacro& macro, const JinjaArguments& arguments) {
  const JinjaDepthScope scope(budget_);
  RETURN_IF_ERROR(budget_.Enter());
  scopes_.emplace_back();
  outputs_.emplace_back();
  // A macro sees its parameters and the top-level names, not its caller's.
  const size_t outer_frame = std::exchange(frame_, scopes_.size() - 1);
  const int outer_loops = std::exchange(loop_depth_, 0);
  absl::Status status = BindParameters(macro, arguments);
  if (status.ok()) status = Execute(macro.body).status();
  JinjaValue text = JinjaValue::Text(std::move(outputs_.back()));
  loop_depth_ = outer_loops;
  frame_ = outer_frame;
  outputs_.pop_back();
  scopes_.pop_back();
  RETURN_IF_ERROR(status);
  return text;
}

absl::Status JinjaInterpreter::BindParameters(const JinjaMacro& macro,
                                              const JinjaArguments& arguments) {
  if (arguments.positional.size() > macro.parameters.size()) {
    return JinjaError("too many arguments for a macro");
  }
  for (const auto& [name, value] : arguments.named) {
    if (std::find(macro.parameters.begin(), macro.parameters.end(), name) ==
        macro.parameters.end()) {
      return JinjaError("unknown argument for a macro");
    }
  }
  RETURN_IF_ERROR(budget_.Step(static_cast<int64_t>(macro.parameters.size())));
  for (size_t i = 0; i < macro.parameters.size(); ++i) {
    const std::string& name = macro.parameters[i];
    JinjaValue value = JinjaValue::Undefined();
    if (const JinjaValue* given = arguments.Get(i, name)) {
      value = *given;
    } else if (macro.defaults[i] != nullptr) {
      ASSIGN_OR_RETURN(value, Evaluate(*macro.defaults[i]));
    }
    scopes_.back()[name] = std::move(value);
  }
  return absl::OkStatus();
}

JinjaResult JinjaInterpreter::CallFunction(const std::string& name,
                                           const JinjaArguments& arguments) {
  if (name == "range") return Range(arguments);
  if (name == "namespace") return MakeNamespace(arguments);
  if (name == "dict") return MakeDict(arguments);
  if (name == "strftime_now") return FormatNow(arguments);
  // raise_exception: the template's own words are shown, a user's are not.
  const JinjaValue* message = arguments.Get(0, "message");
  const TemplateText* text = message == nullptr ? nullptr : message->text();
  if (text == nullptr || text->from_message())
    return JinjaError("the template refuses these messages");
  return JinjaError(std::string_view(text->text()).substr(0, kMaxRaisedBytes));
}

JinjaResult JinjaInterpreter::Range(const JinjaArguments& arguments) {
  const JinjaItems& given = arguments.positional;
  if (given.empty() || given.size() > 3) return JinjaError("range takes one to three integers");
  int64_t bounds[3] = {0, 0, 1};
  for (size_t i = 0; i < given.size(); ++i) {
    const int64_t* integer = given[i].integer();
    if (integer == nullptr) return JinjaTypeError(given[i], "given where an integer is needed");
    bounds[given.size() == 1 ? 1 : i] = *integer;
  }
  const auto [start, stop, step] = bounds;
  if (step == 0) return JinjaError("range step is zero");
  const __int128 distance =
      step > 0 ? static_cast<__int128>(stop) - start : static_cast<__int128>(start) - stop;
  const __int128 stride = step > 0 ? static_cast<__int128>(step) : -static_cast<__int128>(step);
  const __int128 count = distance <= 0 ? 0 : (distance + stride - 1) / stride;
  if (count > kMaxRange) return JinjaError("range is too long");
  JinjaItems items;
  for (int64_t i = 0; i < static_cast<int64_t>(count); ++i) {
    items.push_back(JinjaValue::Int(static_cast<int64_t>(start + static_cast<__int128>(i) * step)));
  }
  return JinjaValue::List(std::move(items), budget_);
}

JinjaResult JinjaInterpreter::MakeNamespace(const JinjaArguments& arguments) {
  auto space = std::make_shared<JinjaNamespace>();
  for (const JinjaValue& argument : arguments.positional) {
    if (argument.dict() == nullptr) return JinjaTypeError(argument, "cannot start a namespace");
    for (const auto& [key, value] : argument.dict()->entries) {
      RETURN_IF_ERROR(ChargeJinjaText(key, budget_));
      RETURN_IF_ERROR(ChargeJinjaSearch(space->entries.size(), key.size(), budget_));
      RETURN_IF_ERROR(space->Set(key.text(), value));
    }
  }
  for (const auto& [name, value] : arguments.named) RETURN_IF_ERROR(space->Set(name, value));
  return JinjaValue(JinjaValue::Storage(std::move(space)));
}

JinjaResult JinjaInterpreter::MakeDict(const JinjaArguments& arguments) {
  std::vector<std::pair<TemplateText, JinjaValue>> entries;
  for (const JinjaValue& argument : arguments.positional) {
    if (argument.dict() == nullptr) return JinjaTypeError(argument, "cannot start a dict");
    for (const auto& entry : argument.dict()->entries) {
      RETURN_IF_ERROR(ChargeJinjaText(entry.first, budget_));
      entries.push_back(entry);
    }
  }
  for (const auto& [name, value] : arguments.named) {
    RETURN_IF_ERROR(ChargeJinjaSearch(entries.size(), name.size(), budget_));
    const auto known =
        std::find_if(entries.begin(), entries.end(),
                     [&key = name](const auto& entry) { return entry.first.text() == key; });
    if (known != entries.end()) {
      known->second = value;
    } else {
      entries.emplace_back(TemplateText(name), value);
    }
  }
  return JinjaValue::Dict(std::move(entries), budget_);
}

JinjaResult JinjaInterpreter::FormatNow(const JinjaArguments& arguments) {
  const JinjaValue* format = arguments.Get(0, "format");
  if (format == nullptr || format->text() == nullptr || format->text()->from_message() ||
      format->text()->size() > 64) {
    return JinjaError("strftime_now needs a short format");
  }
  RETURN_IF_ERROR(budget_.Step(8 * static_cast<int64_t>(format->text()->size())));
  const auto seconds = static_cast<std::time_t>(settings_.unix_seconds);
  std::tm calendar{};
  gmtime_r(&seconds, &calendar);
  char buffer[512];
  const size_t length =
      std::strftime(buffer, sizeof(buffer), format->text()->text().c_str(), &calendar);
  return JinjaValue::Text(std::string(buffer, length));
}

}  // namespace sluice
