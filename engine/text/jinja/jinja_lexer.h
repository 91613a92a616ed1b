// Cuts a chat template into text and tag tokens, with the white-space control that chat templates
// are written for (trim_blocks and lstrip_blocks on). Source: pallets/jinja 3.1,
// src/jinja2/lexer.py.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace sluice {

enum class JinjaTokenKind {
  kText,           // template text outside tags
  kBlockBegin,     // {%
  kBlockEnd,       // %}
  kVariableBegin,  // {{
  kVariableEnd,    // }}
  kName,
  kString,
  kInteger,
  kFloat,
  kOperator,
  kEnd,
};

struct JinjaToken {
  JinjaTokenKind kind = JinjaTokenKind::kEnd;
  std::string text;  // decoded for strings
  int64_t integer = 0;
  double number = 0;
  int line = 1;
};

// InvalidArgument, with the line, for unfinished tags and strings and unknown characters. The last
// token is kEnd.
absl::StatusOr<std::vector<JinjaToken>> LexJinja(std::string_view source);

}  // namespace sluice
