// Operators, subscripts and iteration on template values, with Python's meaning. 64-bit integers:
// overflow is an error.
#pragma once

#include "absl/status/statusor.h"
#include "engine/text/jinja/jinja_ast.h"
#include "engine/text/jinja/jinja_value.h"

namespace sluice {

JinjaResult JinjaArithmetic(JinjaOperator op,
                            const JinjaValue& left,
                            const JinjaValue& right,
                            JinjaBudget& budget);
absl::StatusOr<bool> JinjaCompare(JinjaOperator op,
                                  const JinjaValue& left,
                                  const JinjaValue& right,
                                  JinjaBudget& budget);
absl::StatusOr<bool> JinjaEquals(const JinjaValue& left,
                                 const JinjaValue& right,
                                 JinjaBudget& budget);
// left < right; InvalidArgument when they have no order.
absl::StatusOr<bool> JinjaLess(const JinjaValue& left,
                               const JinjaValue& right,
                               JinjaBudget& budget);
absl::StatusOr<bool> JinjaContains(const JinjaValue& container,
                                   const JinjaValue& item,
                                   JinjaBudget& budget);
JinjaResult JinjaNegate(const JinjaValue& value);

// `value.name` and `value[key]`: undefined when absent, InvalidArgument on undefined values.
JinjaResult JinjaAttribute(const JinjaValue& value, const std::string& name, JinjaBudget& budget);
JinjaResult JinjaItem(const JinjaValue& value, const JinjaValue& key, JinjaBudget& budget);

struct JinjaSliceBounds {
  JinjaValue start;  // undefined or none: open
  JinjaValue stop;
  JinjaValue step;
};
JinjaResult JinjaSlice(const JinjaValue& value,
                       const JinjaSliceBounds& bounds,
                       JinjaBudget& budget);

// What a for loop walks: items, keys of a dict, characters of text, nothing for undefined.
absl::StatusOr<JinjaItems> JinjaIterate(const JinjaValue& value, JinjaBudget& budget);

}  // namespace sluice
