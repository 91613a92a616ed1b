#include <algorithm>
#include <set>
#include <utility>

#include "absl/hash/hash.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "engine/chunk_rows.h"
#include "engine/engine_thread.h"
#include "engine/model/model_spec_json.h"
#include "engine/model/prompt_rules.h"
#include "engine/model_files.h"
#include "engine/status_macros.h"

namespace sluice {
namespace {

// FNV-1a: stable between runs and builds, unlike absl::Hash.
uint64_t Fingerprint(const std::string& text) {
  uint64_t hash = 14695981039346656037u;
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 1099511628211u;
  return hash;
}

// What a request may ask of experts that choose rows, or that refuse them.
void DescribeExperts(const std::vector<const RouterSpec*>& routers, ModelCard* card) {
  bool among_rows = false, above = false, refuses = false;
  bool thresholds = true, capacity = true;
  for (const RouterSpec* router : routers) {
    card->has_experts = true;
    card->num_experts = std::max(card->num_experts, router->num_experts);
    if (router->pick == ExpertPick::kRowTopK) {
      card->experts_per_token = std::max(card->experts_per_token, router->top_k);
      refuses |= router->capacity.has_value();
      continue;
    }
    (router->pick == ExpertPick::kExpertTopK ? among_rows : above) = true;
    thresholds &= !router->thresholds.empty();
    capacity &= router->capacity.has_value();
  }
  if (among_rows) {
    card->routing_modes = {"topk_prompt"};
    if (thresholds) card->routing_modes.push_back("threshold");
  } else if (above) {
    card->routing_modes = {"threshold"};
    if (capacity) card->routing_modes.push_back("topk_prompt");
  }
  if (!refuses) return;
  if (card->routing_modes.empty()) card->routing_modes = {"no_drop"};
  card->routing_modes.push_back("capacity");
}

void DescribeRouting(const ModelSpec& spec, ModelCard* card) {
  std::set<std::string> modes;
  bool any = false, table = true, predictor = true, capacity = true;
  std::string first;
  std::vector<const RouterSpec*> routers;
  std::vector<const LayerGroupSpec*> groups;
  for (const StackSpec& stack : spec.stacks) {
    for (const LayerGroupSpec& group : stack.groups) groups.push_back(&group);
  }
  for (const LayerGroupSpec* each : groups) {
    const LayerGroupSpec& group = *each;
    card->has_exit_threshold |= group.repeat.exits() || group.repeat.gate.has_value();
    if (group.repeat.adjustable) card->max_depth = std::max(card->max_depth, group.repeat.times);
    for (const LayerSpec& layer : group.layers) {
      for (const SublayerSpec& sublayer : layer.sublayers) {
        const auto* mixture = std::get_if<MixtureFfnSpec>(&sublayer.block);
        if (mixture != nullptr) {
          card->cohort_size = card->cohort_size == 0
                                  ? mixture->group_size
                                  : std::min(card->cohort_size, mixture->group_size);
        }
        const auto* moe = std::get_if<MoeFfnSpec>(&sublayer.block);
        if (moe != nullptr) routers.push_back(&moe->router);
      }
      if (!layer.depth.has_value()) continue;
      any = true;
      table &= !layer.depth->score_quantiles.empty();
      predictor &= !layer.depth->predictor.empty();
      // ValidateSpec refuses top-k of a layer that forces its first row; so must a request's mode.
      capacity &= (layer.depth->capacity > 0.0 || layer.depth->capacity_rows > 0) &&
                  !layer.depth->force_first;
      switch (layer.depth->prefill_decide) {
        case DepthDecide::kRouterThreshold:
          first = "threshold";
          break;
        case DepthDecide::kPredictorThreshold:
          first = "predictor";
          break;
        case DepthDecide::kRouterTopK:
          first = "topk_prompt";
          break;
        case DepthDecide::kPromptMean:
          first = "prompt_mean";
          break;
      }
    }
  }
  DescribeExperts(routers, card);
  card->scores_only = OnlyScores(spec.decoder());
  // Who takes a layer or an expert and who mixes in it are not chosen together, nor beside a prompt
  // that must run whole.
  if (any || !card->routing_modes.empty() || spec.stacks.size() > 1) card->cohort_size = 0;
  if (!any) {
    if (card->cohort_size > 0) card->routing_modes = {"isolated", "cohort"};
    return;
  }
  card->has_capacity_table = table;
  card->routing_modes = {first};
  modes.insert("threshold");
  if (predictor) modes.insert("predictor");
  if (capacity) modes.insert("topk_prompt");
  modes.erase(first);
  card->routing_modes.insert(card->routing_modes.end(), modes.begin(), modes.end());
}

// The most tokens, up to `limit`, that one sequence may have.
int32_t KvCapacityTokens(const PageBudget& pages, int32_t limit) {
  int32_t fits = 0;
  int32_t too_many = limit + 1;
  while (too_many - fits > 1) {
    const int32_t middle = fits + (too_many - fits) / 2;
    (pages.CanEverFit(middle) ? fits : too_many) = middle;
  }
  return fits;
}

// "temperature 0.4, top_p 0.9": a filter that does nothing is left out.
std::string SamplingValues(const SamplingDefaults& defaults) {
  const SamplingDefaults neutral;
  std::string text = absl::StrCat("temperature ", defaults.temperature);
  if (defaults.top_p != neutral.top_p) absl::StrAppend(&text, ", top_p ", defaults.top_p);
  if (defaults.top_k != neutral.top_k) absl::StrAppend(&text, ", top_k ", defaults.top_k);
  if (defaults.min_p != neutral.min_p) absl::StrAppend(&text, ", min_p ", defaults.min_p);
  if (defaults.repetition_penalty != neutral.repetition_penalty)
    absl::StrAppend(&text, ", repetition_penalty ", defaults.repetition_penalty);
  return text;
}

// Empty for a model that does not generate.
std::string SamplingLine(const ModelCard& card) {
  if (card.embedding_size > 0) return "";
  const bool is_the_models = card.sampling_defaults != SamplingDefaults();
  return absl::StrCat(SamplingValues(card.sampling_defaults), " unless a request says otherwise",
                      is_the_models ? " (generation_config.json)" : "");
}

// Tells servers apart whose text for the same request and seed may differ.
std::string FingerprintOf(const ModelCard& card,
                          const RunnerFacts& facts,
                          const WeightStore& weights) {
  std::string identity =
      absl::StrCat(card.spec.dump(), " ", weights.total_bytes(), " ", facts.weight_bytes);
  absl::StrAppend(&identity, " weights=", kernels::Name(facts.weights));
  for (const auto& kernel : facts.kernels)
    absl::StrAppend(&identity, " ", kernel.op, "=", kernel.kernel);
  absl::StrAppend(&identity, " ", SamplingValues(card.sampling_defaults));
  return absl::StrFormat("fp_%016x", Fingerprint(identity));
}

ModelCard MakeCard(const EngineConfig& config,
                   const ModelSpec& spec,
                   const RunnerFacts& facts,
                   const PageBudget& pages) {
  ModelCard card;
  card.id = config.served_model_name.empty() ? ModelNameOfPath(config.model_directory)
                                             : config.served_model_name;
  card.family = spec.family;
  card.vocab_size = facts.vocab_size;
  card.max_context_tokens = config.max_context_tokens > 0
                                ? std::min(config.max_context_tokens, spec.max_positions)
                                : spec.max_positions;
  card.max_batch_tokens = ChunkRows(config, spec, facts.kernels);
  card.kv_capacity_tokens = KvCapacityTokens(pages, card.max_context_tokens);
  if (spec.encoder() != nullptr) {  // the decoder's start token takes a place
    card.decoder_start_token = spec.decoder_start_token_id;
    --card.max_context_tokens;
    card.kv_capacity_tokens = std::max(0, card.kv_capacity_tokens - 1);
  }
  card.max_queued_requests = config.max_queued_requests;
  card.eos_token_ids = spec.eos_token_ids;
  card.parameters_total = facts.parameters_total;
  card.parameters_active = facts.parameters_active;
  card.num_layer_instances = static_cast<int32_t>(facts.instances.size());
  for (const LayerInstance& instance : facts.instances) {
    if (instance.routed) card.routed_layers.push_back(instance.label);
  }
  if (spec.is_encoder()) card.embedding_size = static_cast<int32_t>(spec.decoder().embedding.dim);
  card.default_needs_whole_prompt = ReadsWholePrompt(spec);
  DescribeRouting(spec, &card);
  // A cohort takes a row of each member in every step.
  card.cohort_size = std::min({card.cohort_size, config.max_sequences, card.max_batch_tokens});
  card.spec = SpecToJson(spec);
  return card;
}

std::string SpecLine(const ModelSpec& spec, const ModelCard& card) {
  std::string line = absl::StrCat(card.family, ": ", card.num_layer_instances, " layers");
  if (!card.routed_layers.empty())
    absl::StrAppend(&line, " (", card.routed_layers.size(), " depth-routed)");
  if (card.max_depth > 0) absl::StrAppend(&line, ", core repeated ", card.max_depth, " times");
  if (card.has_experts) absl::StrAppend(&line, ", ", card.experts_per_token, " experts per token");
  absl::StrAppend(&line, ", dim ", spec.decoder().embedding.dim, ", vocabulary ", card.vocab_size,
                  ", context ", card.max_context_tokens, ", ");
  return absl::StrCat(line, absl::StrFormat("%.1f M parameters, %.1f M active",
                                            static_cast<double>(card.parameters_total) / 1e6,
                                            static_cast<double>(card.parameters_active) / 1e6));
}

}  // namespace

absl::StatusOr<LoadedModel> LoadModel(const EngineConfig& config, const LoadProgress& progress) {
  LoadedModel model;
  ASSIGN_OR_RETURN(ModelFiles files,
                   ModelFiles::Open(config.model_directory, config.require_manifest));
  const ModelSpec& spec = files.spec;
  ASSIGN_OR_RETURN(model.tokenizer, std::move(files.tokenizer));
  ASSIGN_OR_RETURN(model.chat_template, std::move(files.chat_template));
  SamplingDefaults sampling_defaults;
  if (config.generation_config != "none") {
    if (const absl::Status& status = files.sampling_defaults.status(); !status.ok()) {
      return absl::Status(status.code(), absl::StrCat(std::string(status.message()),
                                                      "; --generation-config=none ignores it"));
    }
    sampling_defaults = *files.sampling_defaults;
  }
  if (model.tokenizer->summary().vocab_size > spec.decoder().embedding.vocab_size) {
    return absl::InvalidArgumentError(absl::StrCat(
        config.model_directory, ": the tokenizer has ", model.tokenizer->summary().vocab_size,
        " pieces but the model's vocab_size is ", spec.decoder().embedding.vocab_size));
  }
  ASSIGN_OR_RETURN(std::unique_ptr<RealModelRunner> runner,
                   RealModelRunner::Create(config, spec, *files.weights, progress));
  const RunnerFacts& facts = runner->facts();
  model.card = MakeCard(config, spec, facts, runner->pages());
  model.card.sampling_defaults = sampling_defaults;
  model.card.fingerprint = FingerprintOf(model.card, facts, *files.weights);
  model.report = {.spec_line = SpecLine(spec, model.card),
                  .sampling_line = SamplingLine(model.card),
                  .kernels = facts.kernels,
                  .weights = kernels::Name(facts.weights),
                  .threads = facts.threads,
                  .weight_bytes = facts.weight_bytes,
                  .kv_bytes = facts.kv_bytes,
                  .arena_bytes = facts.arena_bytes,
                  .kv_tokens = facts.kv_tokens,
                  .packed_cache = facts.packed_cache};
  model.runner = std::move(runner);
  return model;
}

}  // namespace sluice
