// The fields that completions and chat share: sampling, stopping, routing, scheduling.
#pragma once

#include <optional>

#include "absl/status/status.h"
#include "nlohmann/json.hpp"
#include "server/http/field_reader.h"
#include "server/http/generation_plan.h"

namespace sluice::server {

// Fills the plan from the shared fields. `max_tokens` is left to the caller, who knows the prompt.
absl::Status ReadSharedFields(const nlohmann::json& body,
                              const PlanContext& context,
                              GenerationPlan& plan);

// The model's name, which may be left out but not be empty.
absl::Status ReadModelName(const FieldReader& reader, const ModelCard& card);

// Who may ask what of which model, and when: model, priority, timeout_ms; `request.embed` is set.
absl::Status ReadAdmission(const FieldReader& reader, const PlanContext& context, Request& request);

// max_tokens, or max_completion_tokens.
absl::Status ReadMaxTokens(const nlohmann::json& body, std::optional<int32_t>& out);

// Checks the whole request once the prompts are in place and sets each prompt's token limit.
absl::Status FinishPlan(const PlanContext& context,
                        std::optional<int32_t> max_tokens,
                        GenerationPlan& plan);

}  // namespace sluice::server
