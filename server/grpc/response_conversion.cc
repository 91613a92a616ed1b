#include "server/grpc/response_conversion.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace sluice::server {
namespace {

double Ratio(double part, double whole) { return whole > 0.0 ? part / whole : 0.0; }

void FillTop(const TokenLogprob& source,
             const Tokenizer& tokenizer,
             google::protobuf::RepeatedPtrField<v1::TopLogprob>& top) {
  for (const auto& [token, logprob] : source.top) {
    v1::TopLogprob* entry = top.Add();
    entry->set_token_id(token);
    entry->set_token(tokenizer.TokenBytes(token, false));
    entry->set_logprob(logprob);
  }
}

bool IsWanted(int32_t layer, const std::vector<int32_t>& layers) {
  return layers.empty() || std::binary_search(layers.begin(), layers.end(), layer);
}

void FillTrace(const TokenTrace& trace, const std::vector<int32_t>& layers, v1::TokenTrace& entry) {
  entry.set_depth(trace.depth);
  for (const int32_t layer : trace.executed_layers) {
    if (IsWanted(layer, layers)) entry.add_executed_layers(layer);
  }
  for (const auto& [layer, expert] : trace.experts) {
    if (!IsWanted(layer, layers)) continue;
    v1::ExpertChoice* choice = entry.add_experts();
    choice->set_layer(layer);
    choice->set_expert(expert);
  }
}

v1::FinishReason ConvertFinish(FinishReason reason) {
  switch (reason) {
    case FinishReason::kStop:
      return v1::FINISH_REASON_STOP;
    case FinishReason::kLength:
      return v1::FINISH_REASON_LENGTH;
    case FinishReason::kCancelled:
      return v1::FINISH_REASON_CANCELLED;
    case FinishReason::kNone:
    case FinishReason::kError:
      break;
  }
  return v1::FINISH_REASON_UNSPECIFIED;
}

}  // namespace

void AppendEvent(const TokenEvent& event,
                 const GenerateCall& call,
                 const Tokenizer& tokenizer,
                 v1::GenerateResponse& response) {
  response.set_finish_reason(ConvertFinish(event.finish));
  response.mutable_text()->append(event.text);
  response.set_stop_reason(event.stop_reason);
  if (call.return_token_ids) {
    response.mutable_token_ids()->Add(event.tokens.begin(), event.tokens.end());
  }
  response.mutable_embedding()->Add(event.embedding.begin(), event.embedding.end());
  for (const TokenLogprob& logprob : event.logprobs) {
    v1::TokenLogprob* entry = response.add_logprobs();
    entry->set_token_id(logprob.token);
    entry->set_token(tokenizer.TokenBytes(logprob.token, false));
    entry->set_logprob(logprob.logprob);
    FillTop(logprob, tokenizer, *entry->mutable_top());
  }
  for (const TokenTrace& trace : event.traces) {
    FillTrace(trace, call.trace_layers, *response.add_trace());
  }
}

void AppendPrompt(const TokenEvent& event,
                  const GenerateCall& call,
                  const Tokenizer& tokenizer,
                  v1::GenerateResponse& response) {
  v1::PromptEcho& prompt = *response.mutable_prompt();
  prompt.mutable_token_ids()->Add(call.request.prompt.begin(), call.request.prompt.end());
  for (size_t i = 0; i < event.prompt_logprobs.size(); ++i) {
    v1::PromptTokenLogprob* entry = prompt.add_logprobs();
    const std::optional<TokenLogprob>& logprob = event.prompt_logprobs[i];
    const int32_t token = logprob.has_value()              ? logprob->token
                          : i < call.request.prompt.size() ? call.request.prompt[i]
                                                           : 0;
    entry->set_token_id(token);
    entry->set_token(tokenizer.TokenBytes(token, i == 0));
    if (!logprob.has_value()) continue;
    entry->set_logprob(logprob->logprob);
    FillTop(*logprob, tokenizer, *entry->mutable_top());
  }
}

void AddUsage(const Usage& choice, Usage& sum) {
  sum.prompt_tokens = choice.prompt_tokens;
  sum.cached_tokens = choice.cached_tokens;
  sum.completion_tokens += choice.completion_tokens;
  const ComputeUsage& part = choice.compute;
  sum.compute.executed_token_layers += part.executed_token_layers;
  sum.compute.skipped_token_layers += part.skipped_token_layers;
  sum.compute.all_token_layers += part.all_token_layers;
  sum.compute.rows += part.rows;
  sum.compute.distinct_experts += part.distinct_experts;
  sum.compute.dropped_experts += part.dropped_experts;
  sum.compute.flops += part.flops;
  sum.compute.dense_flops += part.dense_flops;
}

v1::Usage ConvertUsage(const Usage& usage) {
  v1::Usage message;
  message.set_prompt_tokens(usage.prompt_tokens);
  message.set_completion_tokens(usage.completion_tokens);
  message.set_cached_tokens(usage.cached_tokens);
  const ComputeUsage& compute = usage.compute;
  const auto executed = static_cast<double>(compute.executed_token_layers);
  const auto skipped = static_cast<double>(compute.skipped_token_layers);
  const auto all = static_cast<double>(compute.all_token_layers);
  v1::ComputeUsage& out = *message.mutable_compute();
  out.set_executed_token_layers(compute.executed_token_layers);
  out.set_skipped_token_layers(compute.skipped_token_layers);
  out.set_skipped_ratio(Ratio(skipped, executed + skipped));
  out.set_skipped_ratio_all_layers(Ratio(skipped, all));
  out.set_mean_depth(Ratio(all - skipped, static_cast<double>(compute.rows)));
  out.set_distinct_experts(compute.distinct_experts);
  out.set_dropped_experts(compute.dropped_experts);
  out.set_flops(compute.flops);
  out.set_dense_flops(compute.dense_flops);
  return message;
}

std::vector<std::pair<std::string, std::string>> ComputeMetadata(const v1::ComputeUsage& compute) {
  return {{"sluice-executed-token-layers", absl::StrCat(compute.executed_token_layers())},
          {"sluice-skipped-token-layers", absl::StrCat(compute.skipped_token_layers())},
          {"sluice-skipped-ratio", absl::StrCat(compute.skipped_ratio())},
          {"sluice-skipped-ratio-all-layers", absl::StrCat(compute.skipped_ratio_all_layers())},
          {"sluice-mean-depth", absl::StrCat(compute.mean_depth())},
          {"sluice-distinct-experts", absl::StrCat(compute.distinct_experts())},
          {"sluice-dropped-experts", absl::StrCat(compute.dropped_experts())},
          {"sluice-flops", absl::StrCat(compute.flops())},
          {"sluice-dense-flops", absl::StrCat(compute.dense_flops())}};
}

v1::Model ConvertModel(const ModelCard& card) {
  v1::Model model;
  model.set_id(card.id);
  model.set_family(card.family);
  model.set_vocab_size(card.vocab_size);
  model.set_max_context_tokens(card.max_context_tokens);
  model.set_max_batch_tokens(card.max_batch_tokens);
  model.mutable_eos_token_ids()->Add(card.eos_token_ids.begin(), card.eos_token_ids.end());
  model.set_parameters_total(card.parameters_total);
  model.set_parameters_active(card.parameters_active);
  model.set_num_layer_instances(card.num_layer_instances);
  for (const std::string& layer : card.routed_layers) model.add_routed_layers(layer);
  for (const std::string& mode : card.routing_modes) model.add_routing_modes(mode);
  model.set_has_capacity_table(card.has_capacity_table);
  model.set_has_experts(card.has_experts);
  model.set_experts_per_token(card.experts_per_token);
  model.set_max_depth(card.max_depth);
  model.set_embedding_size(card.embedding_size);
  model.set_has_exit_threshold(card.has_exit_threshold);
  model.set_cohort_size(card.cohort_size);
  const SamplingDefaults& sampling = card.sampling_defaults;
  v1::SamplingDefaults& defaults = *model.mutable_sampling_defaults();
  defaults.set_temperature(sampling.temperature);
  defaults.set_top_p(sampling.top_p);
  defaults.set_top_k(sampling.top_k);
  defaults.set_min_p(sampling.min_p);
  defaults.set_repetition_penalty(sampling.repetition_penalty);
  model.set_fingerprint(card.fingerprint);
  // Our own value, written by SpecToJson: dump cannot meet invalid UTF-8 unless we are wrong.
  model.set_spec_json(card.spec.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
  return model;
}

}  // namespace sluice::server
