// Parses a chat template into statements. Supported tags: if, for, set, macro, break, continue,
// generation. Anything that would reach outside the template (include, import, extends) is refused.
#pragma once

#include <string_view>

#include "absl/status/statusor.h"
#include "engine/text/jinja/jinja_ast.h"

namespace sluice {

// InvalidArgument, with the line, when the template is malformed or nests deeper than 64.
absl::StatusOr<JinjaBody> ParseJinja(std::string_view source);

}  // namespace sluice
