#include "tests/golden/golden_run.h"

#include <algorithm>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/architectures/architectures.h"
#include "engine/architectures/gguf_model.h"
#include "engine/status_macros.h"
#include "engine/weights/weight_store.h"

namespace sluice {
namespace {

// The rows of one step, as the engine would lay them out.
struct StepRows {
  std::vector<int32_t> tokens, positions, wanted;
  std::vector<KvSequence> sequences;
  std::vector<uint8_t> is_prompt, in_encoder;
  std::vector<RowRouting> routing;
  std::vector<size_t> trace;  // per row: which sequence of the run

  Batch batch() const {
    return {.tokens = tokens,
            .positions = positions,
            .sequences = sequences,
            .is_prompt = is_prompt,
            .routing = routing,
            .wanted = wanted,
            .in_encoder = in_encoder};
  }
};

const char* KindName(ExpertKind kind) {
  switch (kind) {
    case ExpertKind::kFfn:
      return "ffn";
    case ExpertKind::kValue:
      return "att_v";
    case ExpertKind::kOutput:
      return "att_o";
    case ExpertKind::kQuery:
      return "att_q";
  }
  return "?";
}

// Files intermediate values under the sequence and position they belong to.
class Recorder : public ForwardObserver {
 public:
  Recorder(const StepRows& rows, std::vector<SequenceTrace>& traces)
      : rows_(rows), traces_(traces) {}

  void OnHidden(std::string_view name, int32_t layer_instance, const Rows& rows) override {
    if (name != "embed" && name != "layer") {
      if (name == "sublayer" && !first_sublayers_.insert(layer_instance).second) return;
      return OnValues(name, layer_instance, rows.origin, rows.x);
    }
    for (int32_t i = 0; i < rows.count(); ++i) {
      SequenceTrace& trace = TraceOf(rows.origin[i]);
      Store(name == "embed" ? trace.embed : trace.hidden[layer_instance], rows.origin[i],
            {rows.x.Row(i), static_cast<size_t>(rows.x.cols)});
    }
  }
  void OnValues(std::string_view name,
                int32_t layer_instance,
                const kernels::RowSet& origin,
                kernels::TensorView values) override {
    StoreRows(absl::StrCat(std::string(name), ".", layer_instance), origin, values);
  }
  void OnRouting(const RoutingView& routing) override {
    if (routing.of_depth) {
      StoreRows("route.logits", routing.origin, routing.logits);
      StoreRows("route.weight", routing.origin, routing.weights);
      return;
    }
    StoreRows(absl::StrCat("route.", routing.layer_instance, ".", KindName(routing.kind), ".gate"),
              routing.origin, routing.weights);
  }
  void OnSelection(int32_t layer_instance, std::span<const int32_t> origins) override {
    const int32_t zero = 0;
    const int32_t one = 1;
    for (size_t row = 0; row < rows_.tokens.size(); ++row) {
      const auto origin = static_cast<int32_t>(row);
      const bool taken = std::find(origins.begin(), origins.end(), origin) != origins.end();
      Store(TraceOf(origin).taken[layer_instance], origin, {taken ? &one : &zero, 1});
    }
  }
  void OnLogits(int32_t row, std::span<const float> logits) {
    Store(TraceOf(row).logits, row, logits);
  }
  void OnExperts(const ForwardStats& stats) {
    for (const ExpertChoice& choice : stats.expert_choices()) {
      const auto ids = stats.expert_ids(choice);
      const auto rows = stats.expert_rows(choice);
      const std::string key = absl::StrCat(choice.layer_instance, ".", KindName(choice.kind));
      const auto width = static_cast<size_t>(choice.top_k);
      for (size_t first = 0; first < ids.size(); first += width) {
        Store(TraceOf(rows[first]).experts[key], rows[first], ids.subspan(first, width));
      }
    }
  }

 private:
  SequenceTrace& TraceOf(int32_t row) { return traces_[rows_.trace[static_cast<size_t>(row)]]; }

  void StoreRows(const std::string& key,
                 const kernels::RowSet& origin,
                 kernels::TensorView values) {
    for (int32_t i = 0; i < origin.count; ++i) {
      Store(TraceOf(origin[i]).values[key], origin[i],
            {values.Row(i), static_cast<size_t>(values.cols)});
    }
  }

  template <typename T>
  void Store(std::vector<T>& into, int32_t row, std::span<const T> values) {
    const auto position = static_cast<size_t>(rows_.positions[static_cast<size_t>(row)]);
    into.resize(std::max(into.size(), (position + 1) * values.size()));
    std::copy(values.begin(), values.end(),
              into.begin() + static_cast<int64_t>(position * values.size()));
  }
  void Store(std::vector<float>& into, int32_t row, std::span<float> values) {
    Store(into, row, std::span<const float>(values));
  }

  const StepRows& rows_;
  std::vector<SequenceTrace>& traces_;
  std::set<int32_t> first_sublayers_;
};

}  // namespace

std::vector<Step> OneShot(const std::vector<int32_t>& lengths) {
  return InChunks(lengths, *std::max_element(lengths.begin(), lengths.end()));
}

std::vector<Step> InChunks(const std::vector<int32_t>& lengths, int32_t chunk) {
  std::vector<Step> steps;
  for (size_t s = 0; s < lengths.size(); ++s) {
    for (int32_t begin = 0; begin < lengths[s]; begin += chunk) {
      steps.push_back({{s, begin, std::min(begin + chunk, lengths[s])}});
    }
  }
  return steps;
}

std::vector<Step> Together(const std::vector<int32_t>& lengths, int32_t chunk) {
  std::vector<Step> steps;
  const int32_t longest = *std::max_element(lengths.begin(), lengths.end());
  for (int32_t begin = 0; begin < longest; begin += chunk) {
    Step step;
    for (size_t s = 0; s < lengths.size(); ++s) {
      if (begin < lengths[s]) step.push_back({s, begin, std::min(begin + chunk, lengths[s])});
    }
    steps.push_back(std::move(step));
  }
  return steps;
}

absl::StatusOr<GoldenRun> GoldenRun::Load(const std::string& directory,
                                          const EngineConfig& config) {
  GoldenRun run;
  std::unique_ptr<WeightStore> weights;
  absl::StatusOr<ModelFile> gguf = ModelFile::Open(directory, "model.gguf");
  if (gguf.ok()) {
    ASSIGN_OR_RETURN(GgufModel model, LoadGgufModel(*std::move(gguf)));
    weights = std::move(model.weights);
    run.spec_ = std::move(model.spec);
  } else {
    ASSIGN_OR_RETURN(weights, WeightStore::Open(directory));
    ASSIGN_OR_RETURN(run.spec_, LoadModelSpec(directory, *weights));
  }
  ASSIGN_OR_RETURN(run.runner_, RealModelRunner::Create(config, run.spec_, *weights, nullptr));
  run.unused_ = weights->Unused();
  return run;
}

absl::StatusOr<std::vector<SequenceTrace>> GoldenRun::Run(
    const std::vector<std::vector<int32_t>>& tokens,
    const std::vector<Step>& steps,
    const RowRouting& routing,
    size_t cohort) {
  std::vector<SequenceTrace> traces(tokens.size());
  routing_ = routing;
  sequences_.clear();
  cohort_ = cohort;
  for (size_t i = 0; i < tokens.size(); ++i) {
    ASSIGN_OR_RETURN(const KvSequence sequence, runner_->pages().Open());
    sequences_.push_back(sequence);
  }
  for (const Step& step : steps) RETURN_IF_ERROR(RunStep(step, tokens, traces));
  for (const KvSequence sequence : sequences_) runner_->pages().Free(sequence);
  return traces;
}

absl::Status GoldenRun::RunStep(const Step& step,
                                const std::vector<std::vector<int32_t>>& tokens,
                                std::vector<SequenceTrace>& traces) {
  StepRows rows;
  for (const Chunk& chunk : step) {
    const auto encoded = static_cast<int32_t>(chunk.begin == 0 ? encoder_tokens_.size() : 0);
    RETURN_IF_ERROR(
        runner_->pages().Reserve(sequences_[chunk.sequence], encoded + chunk.end - chunk.begin));
    const auto add = [&](int32_t token, int32_t position, bool in_encoder) {
      if (!in_encoder) rows.wanted.push_back(static_cast<int32_t>(rows.tokens.size()));
      if (spec_.encoder() != nullptr) rows.in_encoder.push_back(in_encoder ? 1 : 0);
      rows.tokens.push_back(token);
      rows.positions.push_back(position);
      rows.sequences.push_back(sequences_[chunk.sequence]);
      rows.is_prompt.push_back(position < prompt_tokens_ ? 1 : 0);
      rows.routing.push_back(routing_);
      rows.routing.back().cohort = chunk.sequence < cohort_ ? 0 : -1;
      rows.routing.back().slot = static_cast<int32_t>(chunk.sequence);
      rows.trace.push_back(chunk.sequence);
    };
    for (int32_t i = 0; i < encoded; ++i) add(encoder_tokens_[static_cast<size_t>(i)], i, true);
    for (int32_t position = chunk.begin; position < chunk.end; ++position)
      add(tokens[chunk.sequence][static_cast<size_t>(position)], position, false);
  }
  Recorder recorder(rows, traces);
  const auto sink = [&](int32_t index, std::span<float> logits) {
    recorder.OnLogits(rows.wanted[static_cast<size_t>(index)], logits);
  };
  recorder.OnExperts(runner_->Run(rows.batch(), &recorder, sink));
  for (const Chunk& chunk : step) runner_->Commit(sequences_[chunk.sequence]);
  return runner_->cache()->CheckIntegrity();
}

absl::StatusOr<std::vector<int32_t>> GoldenRun::Generate(std::vector<int32_t> tokens,
                                                         int32_t count) {
  ASSIGN_OR_RETURN(const KvSequence sequence, runner_->pages().Open());
  sequences_ = {sequence};
  cohort_ = 0;
  std::vector<SequenceTrace> traces(1);
  const auto vocab = static_cast<int64_t>(spec_.decoder().embedding.vocab_size);
  int32_t begin = 0;
  for (int32_t i = 0; i < count; ++i) {
    const auto end = static_cast<int32_t>(tokens.size());
    RETURN_IF_ERROR(RunStep({{0, begin, end}}, {tokens}, traces));
    const auto last = traces[0].logits.end() - vocab;
    tokens.push_back(static_cast<int32_t>(std::max_element(last, traces[0].logits.end()) - last));
    begin = end;
  }
  runner_->pages().Free(sequence);
  return tokens;
}

}  // namespace sluice
