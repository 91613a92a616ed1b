// POST /v1/embeddings: from the body to a plan.
#include <string>

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

absl::Status ReadEncodingFormat(const FieldReader& reader, GenerationPlan& plan) {
  std::string format = "float";
  RETURN_IF_ERROR(reader.Read("encoding_format", format));
  plan.base64 = format == "base64";
  if (plan.base64 || format == "float") return absl::OkStatus();
  return BadRequest("invalid_value", "encoding_format", "must be float or base64");
}

}  // namespace

absl::StatusOr<GenerationPlan> PlanEmbedding(std::string_view body, const PlanContext& context) {
  ASSIGN_OR_RETURN(const nlohmann::json object, ParseBodyObject(body));
  RETURN_IF_ERROR(
      CheckFieldNames(object, kInEmbeddings, context.strict_fields, context.count_unknown_field));
  GenerationPlan plan;
  plan.prompt_field = "input";
  Request& request = plan.parameters;
  request.embed = true;
  request.stop.max_tokens = 0;
  const FieldReader reader(object);
  RETURN_IF_ERROR(ReadAdmission(reader, context, request));
  RETURN_IF_ERROR(ReadEncodingFormat(reader, plan));
  RETURN_IF_ERROR(ReadPrompts(object, "input", context, plan));
  for (const PromptPlan& prompt : plan.prompts) {
    request.prompt = prompt.tokens;
    RETURN_IF_ERROR(ValidateRequest(request, context.engine.model(), {.prompt_param = "input"}));
  }
  request.prompt.clear();
  return plan;
}

}  // namespace sluice::server
