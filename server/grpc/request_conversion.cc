#include "server/grpc/request_conversion.h"

#include <algorithm>
#include <array>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/request_error.h"
#include "engine/status_macros.h"
#include "server/prompt_encoding.h"
#include "server/request_validation.h"

namespace sluice::server {
namespace {

// Values beyond float keep their sign and fail the range check; NaN stays NaN.
float ToFloat(double value) {
  constexpr double kMax = std::numeric_limits<float>::max();
  return static_cast<float>(value > kMax ? kMax : value < -kMax ? -kMax : value);
}

absl::Status Unsupported(std::string_view param) {
  return BadRequest("unsupported_parameter", param, "this server does not support this field");
}

// An embedding has no tokens to choose, to stop at or to show.
absl::Status CheckEmbedFields(const v1::GenerateRequest& message) {
  const std::pair<const char*, bool> fields[] = {
      {"max_tokens", message.has_max_tokens()},
      {"min_tokens", message.min_tokens() != 0},
      {"temperature", message.has_temperature()},
      {"top_p", message.has_top_p()},
      {"top_k", message.has_top_k()},
      {"min_p", message.has_min_p()},
      {"typical_p", message.has_typical_p()},
      {"repetition_penalty", message.has_repetition_penalty()},
      {"presence_penalty", message.has_presence_penalty()},
      {"frequency_penalty", message.has_frequency_penalty()},
      {"seed", message.has_seed()},
      {"logit_bias", !message.logit_bias().empty()},
      {"allowed_token_ids", !message.allowed_token_ids().empty()},
      {"bad_words", !message.bad_words().empty()},
      {"logprobs", message.has_logprobs()},
      {"prompt_logprobs", message.has_prompt_logprobs()},
      {"echo", message.echo()},
      {"stop", !message.stop().empty()},
      {"stop_token_ids", !message.stop_token_ids().empty()},
      {"include_stop_str_in_output", message.include_stop_str_in_output()},
      {"ignore_eos", message.ignore_eos()},
      {"skip_special_tokens", message.has_skip_special_tokens()},
  };
  for (const auto& [name, is_set] : fields) {
    if (is_set) {
      return BadRequest("unsupported_parameter", name,
                        "an embedding generates nothing; leave this field out");
    }
  }
  return absl::OkStatus();
}

SamplingParams ConvertSampling(const v1::GenerateRequest& message,
                               const SamplingDefaults& defaults,
                               uint64_t drawn_seed) {
  SamplingParams sampling = defaults.Params();
  if (message.has_temperature()) sampling.temperature = ToFloat(message.temperature());
  if (message.has_top_p()) sampling.top_p = ToFloat(message.top_p());
  if (message.has_top_k()) sampling.top_k = message.top_k();
  if (message.has_min_p()) sampling.min_p = ToFloat(message.min_p());
  if (message.has_typical_p()) sampling.typical_p = ToFloat(message.typical_p());
  if (message.has_repetition_penalty()) {
    sampling.repetition_penalty = ToFloat(message.repetition_penalty());
  }
  if (message.has_presence_penalty()) {
    sampling.presence_penalty = ToFloat(message.presence_penalty());
  }
  if (message.has_frequency_penalty()) {
    sampling.frequency_penalty = ToFloat(message.frequency_penalty());
  }
  sampling.seed = message.has_seed() ? static_cast<uint64_t>(message.seed()) : drawn_seed;
  for (const auto& [token, bias] : message.logit_bias()) {
    sampling.logit_bias.emplace_back(token, ToFloat(bias));
  }
  // Map order is random per process; answers may not be.
  std::sort(sampling.logit_bias.begin(), sampling.logit_bias.end());
  sampling.allowed_token_ids = {message.allowed_token_ids().begin(),
                                message.allowed_token_ids().end()};
  if (message.has_logprobs()) sampling.logprobs = message.logprobs();
  if (message.has_prompt_logprobs()) sampling.prompt_logprobs = message.prompt_logprobs();
  if (message.echo() && message.has_logprobs() && !message.has_prompt_logprobs()) {
    sampling.prompt_logprobs = message.logprobs();
  }
  return sampling;
}

StopParams ConvertStop(const v1::GenerateRequest& message) {
  StopParams stop;
  stop.min_tokens = message.min_tokens();
  stop.stop = {message.stop().begin(), message.stop().end()};
  stop.stop_token_ids = {message.stop_token_ids().begin(), message.stop_token_ids().end()};
  stop.include_stop = message.include_stop_str_in_output();
  stop.ignore_eos = message.ignore_eos();
  if (message.has_skip_special_tokens()) stop.skip_special_tokens = message.skip_special_tokens();
  return stop;
}

absl::StatusOr<RoutingParams> ConvertRouting(const v1::Routing& message, const ModelCard& model) {
  if (message.has_capacity_min()) return Unsupported("routing.capacity_min");
  if (message.trace().scores()) return Unsupported("routing.trace.scores");
  RoutingParams routing;
  if (!message.mode().empty()) {
    ASSIGN_OR_RETURN(routing.mode, ParseRoutingMode(message.mode(), model));
  }
  if (message.has_capacity()) routing.capacity = message.capacity();
  if (message.has_experts_per_token()) routing.experts_per_token = message.experts_per_token();
  if (message.has_expert_threshold()) routing.expert_threshold = message.expert_threshold();
  if (message.has_max_depth()) routing.max_depth = message.max_depth();
  if (message.has_exit_threshold()) routing.exit_threshold = message.exit_threshold();
  routing.trace = message.trace().enabled();
  return routing;
}

std::optional<absl::Duration> EarlierOf(std::optional<absl::Duration> a,
                                        std::optional<absl::Duration> b) {
  if (!a.has_value() || !b.has_value()) return a.has_value() ? a : b;
  return std::min(*a, *b);
}

// Fills prompt, prompt text and max_tokens.
absl::Status ConvertPrompt(const v1::GenerateRequest& message,
                           const EngineClient& engine,
                           GenerateCall& call) {
  Request& request = call.request;
  const bool is_chat = message.prompt_case() == v1::GenerateRequest::kChat;
  switch (message.prompt_case()) {
    case v1::GenerateRequest::kText: {
      if (message.text().empty()) break;
      const bool adds_special = !message.has_add_special_tokens() || message.add_special_tokens();
      ASSIGN_OR_RETURN(request.prompt,
                       EncodePrompt(message.text(), adds_special, engine.tokenizer()));
      break;
    }
    case v1::GenerateRequest::kTokenIds:
      request.prompt = {message.token_ids().ids().begin(), message.token_ids().ids().end()};
      break;
    case v1::GenerateRequest::kChat: {
      ASSIGN_OR_RETURN(const std::vector<ChatMessage> messages, ConvertChat(message.chat()));
      const bool opens_turn =
          !message.chat().has_add_generation_prompt() || message.chat().add_generation_prompt();
      ASSIGN_OR_RETURN(request.prompt, EncodeChat(messages, opens_turn, engine));
      break;
    }
    case v1::GenerateRequest::PROMPT_NOT_SET:
      return BadRequest("empty_prompt", "prompt", "a prompt is required");
  }
  if (request.embed) {
    request.stop = {.max_tokens = 0};
    return absl::OkStatus();
  }
  request.stop.max_tokens = ResolveMaxTokens(
      message.has_max_tokens() ? std::optional(message.max_tokens()) : std::nullopt,
      is_chat ? std::nullopt : std::optional(kDefaultMaxTokens), request.prompt.size(),
      engine.model());
  if (!message.has_max_tokens()) {
    request.stop.max_tokens = std::max(request.stop.max_tokens, request.stop.min_tokens);
  }
  return absl::OkStatus();
}

// The routing that is in effect.
v1::Routing EffectiveRouting(const v1::GenerateRequest& message, const ModelCard& model) {
  v1::Routing routing = message.routing();
  if (message.has_routing() && routing.mode().empty() && !model.routing_modes.empty()) {
    routing.set_mode(model.routing_modes.front());
  }
  return routing;
}

}  // namespace

uint64_t ChoiceSeed(uint64_t seed, int32_t index) { return seed + static_cast<uint64_t>(index); }

absl::StatusOr<std::vector<ChatMessage>> ConvertChat(const v1::Chat& chat) {
  static constexpr std::array<std::string_view, 5> kRoles = {"system", "developer", "user",
                                                             "assistant", "tool"};
  if (chat.messages().empty()) {
    return BadRequest("empty_array", "messages", "at least one message is required");
  }
  std::vector<ChatMessage> messages;
  for (int i = 0; i < chat.messages_size(); ++i) {
    const v1::ChatMessage& message = chat.messages(i);
    if (std::find(kRoles.begin(), kRoles.end(), message.role()) == kRoles.end()) {
      return BadRequest("invalid_value", absl::StrCat("messages[", i, "].role"),
                        "the role must be system, developer, user, assistant or tool");
    }
    messages.push_back({message.role(), message.content()});
  }
  return messages;
}

absl::StatusOr<GenerateCall> ConvertGenerateRequest(const v1::GenerateRequest& message,
                                                    const EngineClient& engine,
                                                    const ConversionOptions& options) {
  const ModelCard& model = engine.model();
  RETURN_IF_ERROR(ValidateModelName(message.model(), model));
  GenerateCall call;
  call.choices = message.has_n() ? message.n() : 1;
  RETURN_IF_ERROR(ValidateSequenceCount(1, call.choices, engine.model()));
  Request& request = call.request;
  request.embed = message.embed();
  RETURN_IF_ERROR(CheckModelGives(request.embed, model.embedding_size > 0));
  if (request.embed && call.choices != 1)
    return BadRequest("integer_out_of_range", "n", "an embedding has one choice");
  if (request.embed) RETURN_IF_ERROR(CheckEmbedFields(message));
  request.sampling = ConvertSampling(message, model.sampling_defaults, options.drawn_seed);
  request.stop = ConvertStop(message);
  ASSIGN_OR_RETURN(request.routing, ConvertRouting(message.routing(), model));
  request.priority = message.priority();
  if (message.has_timeout_ms()) request.timeout = absl::Milliseconds(message.timeout_ms());
  if (message.bad_words_size() > kMaxBadWords) {
    return BadRequest("too_many_entries", "bad_words", "too many bad words");
  }
  for (const std::string& word : message.bad_words()) {
    if (word.empty() || word.size() > kMaxStopBytes) {
      return BadRequest("invalid_value", "bad_words", "a bad word must have 1 to 256 bytes");
    }
  }
  // Lengths are checked before anything is tokenized.
  request.stop.max_tokens =
      message.has_max_tokens() ? message.max_tokens() : std::numeric_limits<int32_t>::max();
  const bool is_chat = message.prompt_case() == v1::GenerateRequest::kChat;
  const ValidationOptions validation = {.prompt_param = is_chat ? "messages" : "prompt",
                                        .echo = message.echo(),
                                        .allow_routing_trace = options.allow_routing_trace};
  RETURN_IF_ERROR(ValidateParameters(request, model, validation));
  RETURN_IF_ERROR(ConvertPrompt(message, engine, call));
  ASSIGN_OR_RETURN(
      request.sampling.bad_words,
      EncodeBadWords({message.bad_words().begin(), message.bad_words().end()}, engine.tokenizer()));
  RETURN_IF_ERROR(ValidateRequest(request, model, validation));
  request.timeout = EarlierOf(request.timeout, options.deadline);

  call.return_token_ids = message.return_token_ids();
  call.wants_prompt_echo =
      message.echo() || message.return_token_ids() || request.sampling.prompt_logprobs.has_value();
  if (message.echo()) {
    call.prompt_text = message.prompt_case() == v1::GenerateRequest::kText
                           ? message.text()
                           : engine.tokenizer().Decode(request.prompt, false);
  }
  call.routing = EffectiveRouting(message, model);
  call.trace_layers = {message.routing().trace().layers().begin(),
                       message.routing().trace().layers().end()};
  std::sort(call.trace_layers.begin(), call.trace_layers.end());
  return call;
}

}  // namespace sluice::server
