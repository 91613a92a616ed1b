#include <algorithm>
#include <utility>

#include "engine/request_error.h"
#include "engine/status_macros.h"
#include "server/http/field_reader.h"
#include "server/http/generation_fields.h"
#include "server/http/generation_plan.h"
#include "server/http/prompt_fields.h"
#include "server/http/request_fields.h"
#include "server/request_validation.h"

namespace sluice::server {
namespace {

using nlohmann::json;

absl::Status ReadLogprobs(const FieldReader& reader, GenerationPlan& plan) {
  SamplingParams& sampling = plan.parameters.sampling;
  RETURN_IF_ERROR(reader.Read("logprobs", sampling.logprobs));
  plan.want_logprobs = sampling.logprobs.has_value();
  if (plan.echo && plan.want_logprobs && !plan.show_prompt_logprobs) {
    sampling.prompt_logprobs = sampling.logprobs;
  }
  if (plan.echo && plan.want_logprobs && plan.show_prompt_logprobs) {
    sampling.prompt_logprobs = std::max(*sampling.prompt_logprobs, *sampling.logprobs);
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<GenerationPlan> PlanCompletion(std::string_view body, const PlanContext& context) {
  ASSIGN_OR_RETURN(const json object, ParseBodyObject(body));
  RETURN_IF_ERROR(
      CheckFieldNames(object, kInCompletions, context.strict_fields, context.count_unknown_field));
  GenerationPlan plan;
  RETURN_IF_ERROR(ReadSharedFields(object, context, plan));
  const FieldReader reader(object);
  RETURN_IF_ERROR(reader.Read("echo", plan.echo));
  RETURN_IF_ERROR(ReadLogprobs(reader, plan));
  std::optional<int32_t> max_tokens;
  RETURN_IF_ERROR(ReadMaxTokens(object, max_tokens));
  // Cheap refusals come before tokenizing.
  const ValidationOptions options = {.echo = plan.echo,
                                     .allow_routing_trace = context.allow_routing_trace};
  plan.parameters.stop.max_tokens =
      max_tokens.value_or(std::max(kDefaultMaxTokens, plan.parameters.stop.min_tokens));
  RETURN_IF_ERROR(ValidateParameters(plan.parameters, context.engine.model(), options));
  RETURN_IF_ERROR(ReadPrompts(object, "prompt", context, plan));
  RETURN_IF_ERROR(FinishPlan(context, max_tokens, plan));
  return plan;
}

}  // namespace sluice::server
