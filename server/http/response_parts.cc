#include "server/http/response_parts.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "absl/strings/numbers.h"
#include "engine/json_reader.h"

namespace sluice::server {
namespace {

using nlohmann::json;

double Ratio(double part, double whole) { return whole > 0 ? part / whole : 0.0; }

// Of text whose characters may be spread over several tokens: each counts where it begins.
int64_t CodePoints(std::string_view text) {
  return std::count_if(text.begin(), text.end(),
                       [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; });
}

// Best first; two ids with the same text keep the better value. The chosen token is always among
// them.
json TopObject(const Tokenizer& tokenizer, const TokenLogprob& entry) {
  json top = json::object();
  for (const auto& [token, logprob] : entry.top) {
    const std::string text = TokenText(tokenizer, token);
    if (!top.contains(text)) top[text] = LogprobNumber(logprob);
  }
  const std::string chosen = TokenText(tokenizer, entry.token);
  if (!top.contains(chosen)) top[chosen] = LogprobNumber(entry.logprob);
  return top;
}

json ByteList(const std::string& bytes) {
  json list = json::array();
  for (const char c : bytes) list.push_back(static_cast<unsigned char>(c));
  return list;
}

json ChatToken(const Tokenizer& tokenizer, int32_t token, float logprob) {
  json entry;
  entry["token"] = TokenText(tokenizer, token);
  entry["logprob"] = LogprobNumber(logprob);
  entry["bytes"] = ByteList(tokenizer.TokenBytes(token, false));
  return entry;
}

bool Wanted(int32_t layer, const std::vector<int32_t>& layers) {
  return layers.empty() || std::binary_search(layers.begin(), layers.end(), layer);
}

template <class T>
void AppendAll(std::vector<T>& to, std::vector<T>& from) {
  to.insert(to.end(), std::make_move_iterator(from.begin()), std::make_move_iterator(from.end()));
}

}  // namespace

void UsageTotal::Add(const Usage& usage, bool first_choice_of_prompt) {
  if (first_choice_of_prompt) {
    prompt_tokens_ += usage.prompt_tokens;
    cached_tokens_ += usage.cached_tokens;
  }
  completion_tokens_ += usage.completion_tokens;
  compute_.executed_token_layers += usage.compute.executed_token_layers;
  compute_.skipped_token_layers += usage.compute.skipped_token_layers;
  compute_.all_token_layers += usage.compute.all_token_layers;
  compute_.rows += usage.compute.rows;
  compute_.distinct_experts += usage.compute.distinct_experts;
  compute_.dropped_experts += usage.compute.dropped_experts;
  compute_.flops += usage.compute.flops;
  compute_.dense_flops += usage.compute.dense_flops;
}

json UsageTotal::ToJson() const {
  const auto executed = static_cast<double>(compute_.executed_token_layers);
  const auto skipped = static_cast<double>(compute_.skipped_token_layers);
  const auto all = static_cast<double>(compute_.all_token_layers);
  json compute;
  compute["executed_token_layers"] = compute_.executed_token_layers;
  compute["skipped_token_layers"] = compute_.skipped_token_layers;
  compute["skipped_ratio"] = Ratio(skipped, executed + skipped);
  compute["skipped_ratio_all_layers"] = Ratio(skipped, all);
  compute["mean_depth"] = Ratio(all - skipped, static_cast<double>(compute_.rows));
  compute["distinct_experts"] = compute_.distinct_experts;
  compute["dropped_experts"] = compute_.dropped_experts;
  compute["flops"] = compute_.flops;
  compute["dense_flops"] = compute_.dense_flops;
  json usage;
  usage["prompt_tokens"] = prompt_tokens_;
  usage["completion_tokens"] = completion_tokens_;
  usage["total_tokens"] = prompt_tokens_ + completion_tokens_;
  usage["prompt_tokens_details"]["cached_tokens"] = cached_tokens_;
  usage["compute"] = std::move(compute);
  return usage;
}

std::string TokenText(const Tokenizer& tokenizer, int32_t token) {
  const std::string bytes = tokenizer.TokenBytes(token, false);
  return IsValidUtf8(bytes) ? bytes : tokenizer.Decode({token}, true);
}

double LogprobNumber(float logprob) {
  constexpr float kLowest = -9999.0f;  // as in vLLM
  return static_cast<double>(logprob >= kLowest ? logprob : kLowest);
}

void CompletionLogprobs::AddFirst(const Tokenizer& tokenizer, int32_t token, int64_t& offset) {
  const std::string text = TokenText(tokenizer, token);
  text_offset.push_back(offset);
  offset += CodePoints(tokenizer.TokenBytes(token, false));
  tokens.push_back(text);
  token_logprobs.push_back(nullptr);
  top_logprobs.push_back(nullptr);
}

void CompletionLogprobs::Add(const Tokenizer& tokenizer,
                             const TokenLogprob& entry,
                             int64_t& offset) {
  const std::string text = TokenText(tokenizer, entry.token);
  text_offset.push_back(offset);
  offset += CodePoints(tokenizer.TokenBytes(entry.token, false));
  tokens.push_back(text);
  token_logprobs.push_back(LogprobNumber(entry.logprob));
  top_logprobs.push_back(TopObject(tokenizer, entry));
}

json CompletionLogprobs::ToJson() && {
  json result;
  result["tokens"] = std::move(tokens);
  result["token_logprobs"] = std::move(token_logprobs);
  result["top_logprobs"] = std::move(top_logprobs);
  result["text_offset"] = std::move(text_offset);
  return result;
}

json ChatLogprobs(const Tokenizer& tokenizer, const std::vector<TokenLogprob>& entries) {
  json content = json::array();
  for (const TokenLogprob& entry : entries) {
    json item = ChatToken(tokenizer, entry.token, entry.logprob);
    json top = json::array();
    for (const auto& [token, logprob] : entry.top) {
      top.push_back(ChatToken(tokenizer, token, logprob));
    }
    item["top_logprobs"] = std::move(top);
    content.push_back(std::move(item));
  }
  json result;
  result["content"] = std::move(content);
  result["refusal"] = nullptr;
  return result;
}

json PromptLogprobs(const Tokenizer& tokenizer,
                    const std::vector<std::optional<TokenLogprob>>& entries) {
  json list = json::array();
  for (const std::optional<TokenLogprob>& entry : entries) {
    if (!entry.has_value()) {
      list.push_back(nullptr);
      continue;
    }
    json row = json::object();
    const auto add = [&](int32_t token, float logprob, json rank) {
      json& cell = row[std::to_string(token)];
      if (!cell.is_null()) return;
      cell["logprob"] = LogprobNumber(logprob);
      cell["rank"] = std::move(rank);
      cell["decoded_token"] = TokenText(tokenizer, token);
    };
    int64_t rank = 0;
    for (const auto& [token, logprob] : entry->top) add(token, logprob, ++rank);
    add(entry->token, entry->logprob, nullptr);
    list.push_back(std::move(row));
  }
  return list;
}

json FinishReasonJson(FinishReason reason) {
  switch (reason) {
    case FinishReason::kStop:
      return "stop";
    case FinishReason::kLength:
      return "length";
    case FinishReason::kCancelled:
    case FinishReason::kError:
      return "abort";
    case FinishReason::kNone:
      break;
  }
  return nullptr;
}

json StopReasonJson(const TokenEvent& event, const StopParams& stop) {
  if (event.stop_reason.empty()) return nullptr;
  int32_t token = 0;
  const bool is_string =
      std::find(stop.stop.begin(), stop.stop.end(), event.stop_reason) != stop.stop.end();
  if (!is_string && absl::SimpleAtoi(event.stop_reason, &token)) return token;
  return event.stop_reason;
}

json TraceJson(size_t index,
               const std::vector<TokenTrace>& traces,
               const std::vector<int32_t>& layers,
               int64_t& budget) {
  json tokens = json::array();
  bool truncated = false;
  for (const TokenTrace& trace : traces) {
    const auto cost =
        static_cast<int64_t>(1 + trace.executed_layers.size() + 2 * trace.experts.size());
    truncated = cost > budget;
    if (truncated) break;
    budget -= cost;
    json executed = json::array();
    for (const int32_t layer : trace.executed_layers) {
      if (Wanted(layer, layers)) executed.push_back(layer);
    }
    json experts = json::array();
    for (const auto& [layer, expert] : trace.experts) {
      if (Wanted(layer, layers)) experts.push_back(json::array({layer, expert}));
    }
    json row;
    row["depth"] = trace.depth;
    row["executed_layers"] = std::move(executed);
    row["experts"] = std::move(experts);
    tokens.push_back(std::move(row));
  }
  json result;
  result["index"] = index;
  result["tokens"] = std::move(tokens);
  if (truncated) result["truncated"] = true;
  return result;
}

void Accumulate(TokenEvent& whole, TokenEvent event) {
  AppendAll(whole.tokens, event.tokens);
  AppendAll(whole.logprobs, event.logprobs);
  AppendAll(whole.prompt_logprobs, event.prompt_logprobs);
  AppendAll(whole.traces, event.traces);
  AppendAll(whole.embedding, event.embedding);
  whole.text += event.text;
  if (event.finish == FinishReason::kNone) return;
  whole.finish = event.finish;
  whole.stop_reason = std::move(event.stop_reason);
  whole.error = std::move(event.error);
  whole.usage = event.usage;
}

}  // namespace sluice::server
