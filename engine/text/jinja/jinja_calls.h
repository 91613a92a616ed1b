// What a template may call on a value: filters (`x | f`), tests (`x is t`) and methods (`x.m()`).
// None of them can reach outside the values that it is given.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/text/jinja/jinja_value.h"

namespace sluice {

struct JinjaArguments {
  JinjaItems positional;
  std::vector<std::pair<std::string, JinjaValue>> named;

  // The argument at `index`, or called `name`; null when it was not given.
  const JinjaValue* Get(size_t index, std::string_view name) const;
};

struct JinjaCall {
  const JinjaValue& input;
  const JinjaArguments& arguments;
  JinjaBudget& budget;

  // The argument as given, or `fallback`. InvalidArgument when it has another type.
  absl::StatusOr<bool> BoolArgument(size_t index, std::string_view name, bool fallback) const;
  absl::StatusOr<int64_t> IntArgument(size_t index, std::string_view name, int64_t fallback) const;
  absl::StatusOr<TemplateText> TextArgument(size_t index,
                                            std::string_view name,
                                            std::string_view fallback) const;
};

using JinjaFilter = JinjaResult (*)(const JinjaCall& call);
struct JinjaFilterEntry {
  const char* name;
  JinjaFilter filter;
};

bool IsJinjaFilter(std::string_view name);
bool IsJinjaTest(std::string_view name);
JinjaResult ApplyJinjaFilter(std::string_view name, const JinjaCall& call);
absl::StatusOr<bool> ApplyJinjaTest(std::string_view name, const JinjaCall& call);

bool HasJinjaMethod(const JinjaValue& value, std::string_view name);
JinjaResult CallJinjaMethod(std::string_view name, const JinjaCall& call);

// The parts of the filter table: one file each.
JinjaFilter FindTextFilter(std::string_view name);
JinjaFilter FindListFilter(std::string_view name);
JinjaFilter FindNumberFilter(std::string_view name);

// `a.b.0`: attributes and items one after the other.
JinjaResult JinjaAttributePath(const JinjaValue& value, std::string_view path, JinjaBudget& budget);

}  // namespace sluice
