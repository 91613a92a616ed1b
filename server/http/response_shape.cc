#include "server/http/response_shape.h"

#include <bit>
#include <cstring>
#include <utility>

#include "absl/strings/escaping.h"

namespace sluice::server {
namespace {

using nlohmann::json;

class CompletionShape final : public ResponseShape {
 public:
  using ResponseShape::ResponseShape;

  json Opening(size_t) override { return nullptr; }

 protected:
  const char* ObjectName(bool) const override { return "text_completion"; }

  json Choice(size_t choice, const TokenEvent& event, bool chunk) override {
    const GenerationPlan& plan = context_.plan;
    const PromptPlan& prompt = PromptOf(choice);
    const bool is_start = !started_[choice];
    started_[choice] = true;
    json result = ChoiceBase(choice, event);
    std::string text = plan.echo && is_start ? prompt.echo_text : std::string();
    text += event.text;
    result["text"] = std::move(text);
    result["logprobs"] = plan.want_logprobs ? Logprobs(choice, event, is_start) : json();
    if (plan.return_token_ids && (is_start || !chunk)) result["prompt_token_ids"] = prompt.tokens;
    if (plan.show_prompt_logprobs) {
      result["prompt_logprobs"] =
          PromptLogprobs(context_.engine.tokenizer(), event.prompt_logprobs);
    }
    return result;
  }

 private:
  json Logprobs(size_t choice, const TokenEvent& event, bool is_start) {
    const Tokenizer& tokenizer = context_.engine.tokenizer();
    int64_t& offset = text_offsets_[choice];
    CompletionLogprobs lists;
    if (context_.plan.echo && is_start) {
      const std::vector<int32_t>& tokens = PromptOf(choice).tokens;
      for (size_t i = 0; i < event.prompt_logprobs.size() && i < tokens.size(); ++i) {
        if (event.prompt_logprobs[i].has_value()) {
          lists.Add(tokenizer, *event.prompt_logprobs[i], offset);
        } else {
          lists.AddFirst(tokenizer, tokens[i], offset);
        }
      }
    }
    for (const TokenLogprob& entry : event.logprobs) lists.Add(tokenizer, entry, offset);
    return std::move(lists).ToJson();
  }
};

class ChatShape final : public ResponseShape {
 public:
  using ResponseShape::ResponseShape;

  // The role comes first and alone, as clients expect.
  json Opening(size_t choice) override {
    json delta;
    delta["role"] = "assistant";
    delta["content"] = "";
    json item;
    item["index"] = choice;
    item["delta"] = std::move(delta);
    item["logprobs"] = nullptr;
    item["finish_reason"] = nullptr;
    json chunk = Envelope(true);
    chunk["choices"] = json::array();
    chunk["choices"].push_back(std::move(item));
    if (context_.plan.return_token_ids) chunk["prompt_token_ids"] = PromptOf(choice).tokens;
    return chunk;
  }

 protected:
  const char* ObjectName(bool chunk) const override {
    return chunk ? "chat.completion.chunk" : "chat.completion";
  }

  json Choice(size_t choice, const TokenEvent& event, bool chunk) override {
    json result = ChoiceBase(choice, event);
    json message = json::object();
    if (!chunk) message["role"] = "assistant";
    if (!chunk || !event.text.empty()) message["content"] = event.text;
    if (!chunk) message["refusal"] = nullptr;
    result[chunk ? "delta" : "message"] = std::move(message);
    const bool with_logprobs = context_.plan.want_logprobs && (!chunk || !event.logprobs.empty());
    result["logprobs"] =
        with_logprobs ? ChatLogprobs(context_.engine.tokenizer(), event.logprobs) : json();
    return result;
  }
};

// {"object": "list", "data": [{"object": "embedding", "index", "embedding"}], "model", "usage"}.
class EmbeddingShape final : public ResponseShape {
 public:
  using ResponseShape::ResponseShape;

  json Opening(size_t) override { return nullptr; }
  json Whole(const std::vector<TokenEvent>& choices, const UsageTotal& usage) override {
    json result;
    result["object"] = ObjectName(false);
    result["model"] = context_.engine.model().id;
    result["data"] = json::array();
    for (size_t i = 0; i < choices.size(); ++i)
      result["data"].push_back(Choice(i, choices[i], false));
    result["usage"] = usage.ToJson();
    return result;
  }

 protected:
  const char* ObjectName(bool) const override { return "list"; }
  json Choice(size_t choice, const TokenEvent& event, bool) override {
    json item;
    item["object"] = "embedding";
    item["index"] = choice;
    if (context_.plan.base64) {
      item["embedding"] = absl::Base64Escape(LittleEndian(event.embedding));
    } else {
      item["embedding"] = event.embedding;
    }
    return item;
  }

 private:
  static std::string LittleEndian(const std::vector<float>& values) {
    static_assert(std::endian::native == std::endian::little);
    std::string bytes(values.size() * sizeof(float), '\0');
    std::memcpy(bytes.data(), values.data(), bytes.size());
    return bytes;
  }
};

}  // namespace

ResponseShape::ResponseShape(ResponseContext context)
    : context_(std::move(context)),
      text_offsets_(context_.plan.prompts.size() * static_cast<size_t>(context_.plan.choices)),
      started_(text_offsets_.size()) {}

json ResponseShape::Envelope(bool chunk) const {
  json result;
  result["id"] = (context_.plan.chat ? "chatcmpl-" : "cmpl-") + context_.request_id;
  result["object"] = ObjectName(chunk);
  result["created"] = context_.created_seconds;
  result["model"] = context_.engine.model().id;
  result["system_fingerprint"] = context_.engine.model().fingerprint;
  return result;
}

json ResponseShape::ChoiceBase(size_t choice, const TokenEvent& event) const {
  json result;
  result["index"] = choice;
  result["finish_reason"] = FinishReasonJson(event.finish);
  result["stop_reason"] = StopReasonJson(event, context_.plan.parameters.stop);
  if (context_.plan.return_token_ids) result["token_ids"] = event.tokens;
  return result;
}

void ResponseShape::AddTraces(json& response, size_t choice, const TokenEvent& event) {
  if (!context_.plan.parameters.routing.trace) return;
  response["routing"]["trace"].push_back(
      TraceJson(choice, event.traces, context_.plan.trace_layers, trace_budget_));
}

json ResponseShape::Whole(const std::vector<TokenEvent>& choices, const UsageTotal& usage) {
  json result = Envelope(false);
  if (!context_.plan.routing.is_null()) result["routing"] = context_.plan.routing;
  json list = json::array();
  for (size_t i = 0; i < choices.size(); ++i) {
    list.push_back(Choice(i, choices[i], false));
    AddTraces(result, i, choices[i]);
  }
  result["choices"] = std::move(list);
  result["usage"] = usage.ToJson();
  if (!context_.plan.chat) return result;
  if (context_.plan.return_token_ids) result["prompt_token_ids"] = PromptOf(0).tokens;
  if (context_.plan.show_prompt_logprobs && !choices.empty()) {
    result["prompt_logprobs"] =
        PromptLogprobs(context_.engine.tokenizer(), choices.front().prompt_logprobs);
  }
  return result;
}

json ResponseShape::Chunk(size_t choice, const TokenEvent& event) {
  const GenerationPlan& plan = context_.plan;
  const bool silent = event.text.empty() && event.logprobs.empty() && event.traces.empty() &&
                      event.finish == FinishReason::kNone && !plan.return_token_ids;
  const bool echo_waits = plan.echo && !started_[choice];
  if (silent && !echo_waits) return nullptr;
  json result = Envelope(true);
  result["choices"] = json::array();
  result["choices"].push_back(Choice(choice, event, true));
  if (plan.include_usage) result["usage"] = nullptr;
  AddTraces(result, choice, event);
  return result;
}

json ResponseShape::UsageChunk(const UsageTotal& usage) {
  json result = Envelope(true);
  result["choices"] = json::array();
  result["usage"] = usage.ToJson();
  if (!context_.plan.routing.is_null()) result["routing"] = context_.plan.routing;
  return result;
}

std::unique_ptr<ResponseShape> MakeResponseShape(ResponseContext context) {
  if (context.plan.parameters.embed) return std::make_unique<EmbeddingShape>(std::move(context));
  if (context.plan.chat) return std::make_unique<ChatShape>(std::move(context));
  return std::make_unique<CompletionShape>(std::move(context));
}

}  // namespace sluice::server
