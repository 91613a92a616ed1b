#include "server/http/text_routes.h"

#include <utility>

#include "engine/request_error.h"
#include "engine/status_macros.h"
#include "server/http/field_reader.h"
#include "server/http/generation_fields.h"
#include "server/http/generation_plan.h"
#include "server/http/openai_errors.h"
#include "server/http/response_parts.h"
#include "server/prompt_encoding.h"
#include "server/request_validation.h"

namespace sluice::server {
namespace {

using nlohmann::json;

constexpr size_t kMaxTokens = 1 << 20;

// A route body: from the request's JSON object to the response's, on the text thread.
using TextFunction = absl::StatusOr<json> (*)(const json&, const EngineClient&);

absl::Status CheckModel(const json& body, const Exchange& exchange) {
  const ModelCard& card = exchange.core.engine()->model();
  RETURN_IF_ERROR(ReadModelName(FieldReader(body), card));
  return Authenticator::CheckModel(exchange.principal, card.id);
}

absl::StatusOr<json> Apply(const Exchange& exchange, TextFunction function) {
  ASSIGN_OR_RETURN(const json body, ParseBodyObject(exchange.request.body));
  RETURN_IF_ERROR(CheckModel(body, exchange));
  return function(body, *exchange.core.engine());
}

asio::awaitable<HttpResponse> RunText(Exchange& exchange, TextFunction function) {
  absl::StatusOr<json> result;
  std::string text;
  auto job = [&] {
    result = Apply(exchange, function);
    if (result.ok()) text = Dump(*result);
  };
  co_await exchange.core.text.Run(job);
  exchange.connection.ReleaseBody(exchange.parser);
  if (!result.ok()) co_return ErrorResponse(result.status());
  HttpResponse response;
  response.body = std::move(text);
  co_return response;
}

absl::StatusOr<std::vector<int32_t>> TokenizeBody(const json& body, const EngineClient& engine) {
  const FieldReader reader(body);
  if (reader.Find("messages") != nullptr) {
    ASSIGN_OR_RETURN(const std::vector<ChatMessage> messages, ReadMessages(body));
    bool add_generation_prompt = true;
    RETURN_IF_ERROR(reader.Read("add_generation_prompt", add_generation_prompt));
    return EncodeChat(messages, add_generation_prompt, engine);
  }
  // llama.cpp's server calls the text `content`.
  const bool has_content = reader.Find("prompt") == nullptr && reader.Find("content") != nullptr;
  const char* key = has_content ? "content" : "prompt";
  if (reader.Find(key) == nullptr) {
    return BadRequest("missing_required", "prompt", "a prompt or messages are required");
  }
  std::string text;
  RETURN_IF_ERROR(reader.Read(key, text));
  bool add_special_tokens = !has_content;
  RETURN_IF_ERROR(reader.Read("add_special_tokens", add_special_tokens));
  RETURN_IF_ERROR(reader.Read("add_special", add_special_tokens));
  return EncodePrompt(text, add_special_tokens, engine.tokenizer());
}

absl::StatusOr<json> Tokenize(const json& body, const EngineClient& engine) {
  ASSIGN_OR_RETURN(const std::vector<int32_t> tokens, TokenizeBody(body, engine));
  bool with_texts = false;
  RETURN_IF_ERROR(FieldReader(body).Read("return_token_strs", with_texts));
  json result;
  result["count"] = tokens.size();
  result["max_model_len"] = engine.model().max_context_tokens;
  result["tokens"] = tokens;
  result["token_strs"] = nullptr;
  if (!with_texts) return result;
  json texts = json::array();
  for (const int32_t token : tokens) texts.push_back(TokenText(engine.tokenizer(), token));
  result["token_strs"] = std::move(texts);
  return result;
}

absl::StatusOr<json> Detokenize(const json& body, const EngineClient& engine) {
  const FieldReader reader(body);
  if (reader.Find("tokens") == nullptr) {
    return BadRequest("missing_required", "tokens", "tokens are required");
  }
  std::vector<int32_t> tokens;
  RETURN_IF_ERROR(reader.ReadTokens("tokens", kMaxTokens, tokens));
  for (const int32_t token : tokens) {
    if (token >= engine.model().vocab_size) {
      return BadRequest("token_out_of_vocab", "tokens", "a token id is out of range");
    }
  }
  const std::string text = engine.tokenizer().Decode(tokens, true);
  json result;
  result["prompt"] = text;   // vLLM's name
  result["content"] = text;  // llama.cpp's name
  return result;
}

absl::StatusOr<json> ApplyTemplate(const json& body, const EngineClient& engine) {
  ASSIGN_OR_RETURN(const std::vector<ChatMessage> messages, ReadMessages(body));
  bool add_generation_prompt = true;
  RETURN_IF_ERROR(FieldReader(body).Read("add_generation_prompt", add_generation_prompt));
  const auto segments = engine.chat_template().Render(messages, add_generation_prompt);
  if (!segments.ok()) {
    return BadRequest("template_error", "messages", "the chat template refuses these messages");
  }
  std::string text;
  for (const PromptSegment& segment : *segments) text += segment.text;
  json result;
  result["prompt"] = std::move(text);
  return result;
}

}  // namespace

asio::awaitable<HttpResponse> RunTokenize(Exchange& exchange) {
  return RunText(exchange, &Tokenize);
}

asio::awaitable<HttpResponse> RunDetokenize(Exchange& exchange) {
  return RunText(exchange, &Detokenize);
}

asio::awaitable<HttpResponse> RunApplyTemplate(Exchange& exchange) {
  return RunText(exchange, &ApplyTemplate);
}

asio::awaitable<HttpResponse> RunTokenizerSummary(Exchange& exchange) {
  const EngineClient& engine = *exchange.core.engine();
  const TokenizerSummary& summary = engine.tokenizer().summary();
  json body;
  body["kind"] = summary.kind;
  body["vocab_size"] = summary.vocab_size;
  body["bos_token_id"] = summary.bos_token_id.has_value() ? json(*summary.bos_token_id) : json();
  body["eos_token_id"] = summary.eos_token_id.has_value() ? json(*summary.eos_token_id) : json();
  body["chat_template"] = std::string(engine.chat_template().kind());
  body["max_model_len"] = engine.model().max_context_tokens;
  HttpResponse response;
  response.body = Dump(body);
  co_return response;
}

}  // namespace sluice::server
