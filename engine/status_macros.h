// Early return on absl::Status errors. Not for checks of our own bugs (kernels/check.h).
#pragma once

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#define RETURN_IF_ERROR(expression)                            \
  do {                                                         \
    absl::Status status_macro_result = (expression);           \
    if (!status_macro_result.ok()) return status_macro_result; \
  } while (false)

#define SLUICE_CONCAT_INNER(a, b) a##b
#define SLUICE_CONCAT(a, b) SLUICE_CONCAT_INNER(a, b)

#define ASSIGN_OR_RETURN(lhs, expression) \
  SLUICE_ASSIGN_OR_RETURN_IMPL(SLUICE_CONCAT(status_or_, __LINE__), lhs, expression)
#define SLUICE_ASSIGN_OR_RETURN_IMPL(holder, lhs, expression) \
  auto holder = (expression);                                 \
  if (!holder.ok()) return std::move(holder).status();        \
  lhs = std::move(holder).value()
