// What a request must fit before it is queued.
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/engine.h"
#include "engine/request_error.h"
#include "engine/routing_params.h"
#include "engine/status_macros.h"

namespace sluice {

absl::Status CheckAlone(const Request& request) {
  if (request.routing.mode != RoutingParams::Mode::kCohort) return absl::OkStatus();
  return BadRequest("unsupported_parameter", "routing.mode",
                    "a cohort is the prompts or choices of one HTTP request");
}

absl::Status CheckAdmissible(const Request& request, const ModelCard& model) {
  RETURN_IF_ERROR(CheckModelGives(request.embed, model.embedding_size > 0));
  const bool two_stacks = model.decoder_start_token >= 0;
  if (two_stacks && request.sampling.prompt_logprobs.has_value()) {
    return BadRequest("unsupported_parameter", "prompt_logprobs",
                      "the prompt is the encoder's: it has no log-probabilities");
  }
  const auto prompt = static_cast<int64_t>(request.prompt.size());
  const int32_t max_tokens = request.embed ? 0 : request.stop.max_tokens;
  if (prompt == 0) return BadRequest("empty_prompt", "prompt", "the prompt has no tokens");
  for (const int32_t token : request.prompt) {
    if (token < 0 || token >= model.vocab_size) {
      return BadRequest("token_out_of_vocab", "prompt",
                        "a prompt token id is outside the vocabulary");
    }
  }
  if (prompt > model.max_context_tokens) {
    return BadRequest("context_length_exceeded", "prompt",
                      "the prompt is longer than the model's context");
  }
  if (prompt + max_tokens > model.max_context_tokens) {
    return BadRequest("context_length_exceeded", "max_tokens",
                      "prompt and max_tokens together exceed the model's context");
  }
  if (prompt + max_tokens > model.kv_capacity_tokens) {
    return BadRequest("kv_capacity", prompt >= model.kv_capacity_tokens ? "prompt" : "max_tokens",
                      absl::StrCat("the KV cache holds ", model.kv_capacity_tokens,
                                   " tokens of one request; prompt and max_tokens ask for ",
                                   prompt + max_tokens));
  }
  if (NeedsWholePrompt(request.routing, model) &&
      prompt + (two_stacks ? 1 : 0) > model.max_batch_tokens) {
    const bool encoder = request.embed || two_stacks;
    const bool asked = request.routing.mode != RoutingParams::Mode::kModelDefault;
    return BadRequest("context_length_exceeded", asked ? "routing.mode" : "prompt",
                      absl::StrCat(encoder ? "an encoder" : "this routing",
                                   " needs the whole prompt in one step, which takes ",
                                   model.max_batch_tokens, " tokens (--max-batch-tokens)"));
  }
  if (model.scores_only && request.stop.max_tokens > 1) {
    return BadRequest("unsupported_parameter", "max_tokens",
                      "this model's experts choose among the tokens of a whole prompt and have no "
                      "thresholds for generated ones; at most 1 token");
  }
  return ResolveRouting(request.routing, model).status();
}

absl::Status CheckCohortAdmissible(const std::vector<CohortMember>& members,
                                   const ModelCard& model) {
  if (members.empty()) return BadRequest("empty_prompt", "prompt", "a cohort needs a prompt");
  if (static_cast<int64_t>(members.size()) > model.cohort_size) {
    return BadRequest(
        "too_many_sequences", "prompt",
        absl::StrCat("a cohort of this model has at most ", model.cohort_size, " sequences"));
  }
  for (const CohortMember& member : members)
    RETURN_IF_ERROR(CheckAdmissible(member.request, model));
  return absl::OkStatus();
}

absl::Status Engine::CheckCohortFits(const std::vector<CohortMember>& members) const {
  std::vector<int32_t> rows;
  for (const CohortMember& member : members) {
    rows.push_back(static_cast<int32_t>(member.request.prompt.size()) +
                   member.request.stop.max_tokens);
  }
  if (runner_->pages().CanEverFit(rows)) return absl::OkStatus();
  return BadRequest("kv_capacity", "prompt",
                    "the prompts of the cohort and their max_tokens together exceed the KV cache");
}

}  // namespace sluice
