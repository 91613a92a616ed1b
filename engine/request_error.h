// A client's error with the machine-readable code and parameter that both APIs show (reliability.md
// section 5). Carried as payloads of an absl::Status. Messages come from a closed set and never
// repeat input.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/status.h"

namespace sluice {

inline constexpr std::string_view kErrorCodePayload = "sluice/code";
inline constexpr std::string_view kErrorParamPayload = "sluice/param";

// `code`: "integer_out_of_range"; `param`: "max_tokens" or empty.
absl::Status RequestError(absl::StatusCode status,
                          std::string_view code,
                          std::string_view param,
                          std::string_view message);
// Shorthand for InvalidArgument.
absl::Status BadRequest(std::string_view code, std::string_view param, std::string_view message);

// `unsupported_parameter` of `model` when an embedding is asked of a decoder, or text of an
// encoder.
absl::Status CheckModelGives(bool asks_embedding, bool is_encoder);

// Empty when the status carries none.
std::string ErrorCodeOf(const absl::Status& status);
std::string ErrorParamOf(const absl::Status& status);

}  // namespace sluice
