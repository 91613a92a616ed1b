// Values as text: what {{ value }} prints (Python's str and repr) and JSON (the tojson filter).
#pragma once

#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "engine/text/jinja/jinja_value.h"

namespace sluice {

// Text keeps its marks; anything else that holds message text is marked as a whole.
absl::StatusOr<TemplateText> JinjaToText(const JinjaValue& value, JinjaBudget& budget);

struct JinjaJsonStyle {
  int indent = -1;  // negative: one line
  // Must outlive the call.
  std::string_view item_separator = ", ";
  std::string_view key_separator = ": ";
  bool sort_keys = false;
};

// InvalidArgument for values that JSON does not have.
absl::StatusOr<TemplateText> JinjaToJson(const JinjaValue& value,
                                         const JinjaJsonStyle& style,
                                         JinjaBudget& budget);

// Python's repr of a float. Source: docs.python.org, float.__repr__ (shortest digits that
// round-trip).
std::string JinjaFloatText(double value);

}  // namespace sluice
