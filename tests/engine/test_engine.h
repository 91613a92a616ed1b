// A real engine over a small random model of one family, driven step by step on a clock that stands
// still.
#pragma once

#include <gtest/gtest.h>

#include <bit>
#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "engine/engine.h"
#include "tests/support/fake_engine.h"
#include "tests/support/memory_weight_store.h"
#include "tests/support/random_masks.h"
#include "tests/support/random_spec.h"

namespace sluice::testing {

class FixedClock final : public Clock {
 public:
  absl::Duration Now() const override { return now; }
  absl::Duration now = absl::Seconds(1);
};

struct Answer {
  std::vector<int32_t> tokens;
  std::vector<uint32_t> logprob_bits;
  std::vector<uint32_t> prompt_logprob_bits;
  std::string text;
  std::vector<float> embedding;
  FinishReason finish = FinishReason::kNone;
  absl::Status error;
  Usage usage;
  std::vector<TokenTrace> traces;
  int last_events = 0;
  bool operator==(const Answer& other) const {
    return tokens == other.tokens && logprob_bits == other.logprob_bits && text == other.text &&
           prompt_logprob_bits == other.prompt_logprob_bits && embedding == other.embedding &&
           finish == other.finish;
  }
};

class AnswerSink final : public TokenSink {
 public:
  void OnEvent(TokenEvent event) override {
    answer.tokens.insert(answer.tokens.end(), event.tokens.begin(), event.tokens.end());
    answer.traces.insert(answer.traces.end(), event.traces.begin(), event.traces.end());
    for (const TokenLogprob& logprob : event.logprobs) {
      answer.logprob_bits.push_back(std::bit_cast<uint32_t>(logprob.logprob));
    }
    for (const auto& logprob : event.prompt_logprobs) {
      answer.prompt_logprob_bits.push_back(
          logprob.has_value() ? std::bit_cast<uint32_t>(logprob->logprob) : 0u);
    }
    answer.text += event.text;
    answer.embedding.insert(answer.embedding.end(), event.embedding.begin(), event.embedding.end());
    if (event.finish == FinishReason::kNone) return;
    ++answer.last_events;
    answer.finish = event.finish;
    answer.error = event.error;
    answer.usage = event.usage;
  }
  Answer answer;
};

// kTuned: depth-routed by the mean of a prompt, every key kept.
enum class Family { kDense, kMoe, kMod, kTuned, kMot, kEncoder, kEncoderDecoder };

inline constexpr int32_t kCohortSize = 4;  // of kMot

inline ModelSpec FamilySpec(Family family) {
  ModelSpec spec = PlainSpec(4);
  spec.stacks[0].embedding.vocab_size = 97;
  auto& layers = spec.stacks[0].groups[0].layers;
  if (family == Family::kEncoderDecoder) {
    AddEncoder(3, spec);
    return spec;
  }
  if (family == Family::kEncoder) {
    spec.stacks[0].role = StackRole::kEncoder;
    spec.head = {.pooling = Pooling::kMean};
    for (LayerSpec& layer : layers)
      std::get<AttentionSpec>(layer.sublayers[0].block).mask = MaskKind::kFull;
  }
  for (size_t l = 1; l < layers.size(); l += 2) {
    if (family == Family::kMod) {
      layers[l].depth = DepthRouterSpec{.weight = "router" + std::to_string(l), .capacity = 0.5};
      for (int i = 0; i <= 100; ++i) {
        layers[l].depth->score_quantiles.push_back(static_cast<float>(i - 50) / 25.0f);
      }
    } else if (family == Family::kTuned) {
      layers[l].depth = DepthRouterSpec{.weight = "router" + std::to_string(l),
                                        .reads_normed = true,
                                        .prefill_decide = DepthDecide::kPromptMean,
                                        .kv = DepthKv::kAllTokens,
                                        .threshold_inclusive = true};
    } else if (family == Family::kMoe) {
      MoeFfnSpec moe;
      moe.router = {
          .num_experts = 5, .top_k = 2, .renormalize = true, .weight = "gate" + std::to_string(l)};
      moe.router.capacity = ExpertCapacitySpec{.rows = 3, .renormalize_kept = true};
      moe.hidden = 70;
      moe.experts = {.gate = "e{e}.gate", .up = "e{e}.up", .down = "e{e}.down"};
      layers[l].sublayers[1].block = moe;
    } else if (family == Family::kMot) {
      MixtureFfnSpec mixture{.group_size = kCohortSize, .num_experts = 3, .hidden = 40};
      mixture.controller = "controller" + std::to_string(l);
      mixture.up = "lin1." + std::to_string(l);
      mixture.down = "lin2." + std::to_string(l);
      layers[l].sublayers[1].block = mixture;
    }
  }
  return spec;
}

struct EngineOptions {
  Family family = Family::kDense;
  kernels::WeightFormat format = kernels::WeightFormat::kF32;
  int32_t max_batch_tokens = 512;
  int32_t max_sequences = 64;
  int64_t kv_memory_bytes = 0;
  int32_t kv_capacity_tokens = std::numeric_limits<int32_t>::max();
  int threads = 2;
  int32_t draft_exit_layer = 0;
  int32_t draft_tokens = 4;
  bool scores_only = false;
};

class TestEngine {
 public:
  explicit TestEngine(const EngineOptions& options) : tokenizer_(MakeFakeTokenizer()) {
    const ModelSpec spec = FamilySpec(options.family);
    MemoryWeightStore weights;
    FillWeights(spec, 11, weights);
    EngineConfig config;
    config.threads = options.threads;
    config.weights = options.format;
    config.max_batch_tokens = options.max_batch_tokens;
    config.max_sequences = options.max_sequences;
    config.kv_memory_bytes = options.kv_memory_bytes;
    config.draft_exit_layer = options.draft_exit_layer;
    config.draft_tokens = options.draft_tokens;
    auto runner = RealModelRunner::Create(config, spec, weights, nullptr);
    SLUICE_CHECK(runner.ok()) << runner.status();
    ModelCard card;
    card.vocab_size = 97;
    card.max_context_tokens = 64;
    card.max_batch_tokens = options.max_batch_tokens;
    card.kv_capacity_tokens = options.kv_capacity_tokens;
    card.eos_token_ids = {96};
    card.num_layer_instances = 4;
    if (options.family == Family::kEncoder)
      card.embedding_size = static_cast<int32_t>(spec.decoder().embedding.dim);
    if (options.family == Family::kEncoderDecoder) {
      card.decoder_start_token = spec.decoder_start_token_id;
      card.max_context_tokens = 63;
    }
    if (options.family == Family::kMod) {
      card.routed_layers = {"1", "3"};
      card.routing_modes = {"threshold", "topk_prompt"};
      card.has_capacity_table = true;
    }
    if (options.family == Family::kTuned) {
      card.routed_layers = {"1", "3"};
      card.routing_modes = {"prompt_mean", "threshold"};
      card.default_needs_whole_prompt = true;
    }
    if (options.family == Family::kMot) {
      card.routing_modes = {"isolated", "cohort"};
      card.cohort_size = kCohortSize;
    }
    card.has_experts = options.family == Family::kMoe;
    card.experts_per_token = card.has_experts ? 2 : 0;
    if (card.has_experts) card.routing_modes = {"no_drop", "capacity"};
    card.scores_only = options.scores_only;
    engine_ = std::make_unique<Engine>(Engine::Parts{.config = config,
                                                     .card = card,
                                                     .runner = *std::move(runner),
                                                     .tokenizer = tokenizer_.get(),
                                                     .clock = &clock_});
  }

  Engine& operator*() { return *engine_; }
  Engine* operator->() { return engine_.get(); }
  FixedClock& clock() { return clock_; }

  std::shared_ptr<AnswerSink> Submit(const Request& request) {
    auto sink = std::make_shared<AnswerSink>();
    last_id_ = RequestId{++next_};
    last_status_ = engine_->Submit(last_id_, request, sink);
    return sink;
  }
  // One sink per member; their ids end with last_id().
  std::vector<std::shared_ptr<AnswerSink>> SubmitCohort(const std::vector<Request>& requests) {
    std::vector<std::shared_ptr<AnswerSink>> sinks;
    std::vector<RequestId> ids;
    std::vector<CohortMember> members;
    for (const Request& request : requests) {
      sinks.push_back(std::make_shared<AnswerSink>());
      ids.push_back(last_id_ = RequestId{++next_});
      members.push_back({request, sinks.back()});
    }
    last_status_ = engine_->SubmitCohort(ids, std::move(members));
    return sinks;
  }
  const absl::Status& last_status() const { return last_status_; }
  RequestId last_id() const { return last_id_; }
  void Drain() {
    for (int step = 0; step < 100'000 && engine_->num_active() > 0; ++step) {
      ASSERT_TRUE(engine_->Step());
      ASSERT_TRUE(engine_->CheckIntegrity().ok()) << engine_->CheckIntegrity();
    }
    ASSERT_EQ(engine_->num_active(), 0);
  }

 private:
  std::unique_ptr<Tokenizer> tokenizer_;
  FixedClock clock_;
  std::unique_ptr<Engine> engine_;
  uint64_t next_ = 0;
  RequestId last_id_{};
  absl::Status last_status_;
};

}  // namespace sluice::testing
