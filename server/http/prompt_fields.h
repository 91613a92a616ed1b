// Prompts as completions and embeddings take them: one or many, text or token ids.
#pragma once

#include "absl/status/status.h"
#include "nlohmann/json.hpp"
#include "server/http/generation_plan.h"

namespace sluice::server {

// Fills plan.prompts from `key` ("prompt", "input") and add_special_tokens. plan.choices is set.
absl::Status ReadPrompts(const nlohmann::json& body,
                         const char* key,
                         const PlanContext& context,
                         GenerationPlan& plan);

}  // namespace sluice::server
