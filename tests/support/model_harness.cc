#include "tests/support/model_harness.h"

#include <algorithm>
#include <utility>

#include "engine/status_macros.h"

namespace sluice::testing {

absl::StatusOr<std::unique_ptr<ModelHarness>> ModelHarness::Create(const ModelSpec& spec,
                                                                   WeightStore& weights,
                                                                   const HarnessOptions& options) {
  RETURN_IF_ERROR(ValidateSpec(spec));
  auto harness = std::make_unique<ModelHarness>();
  ASSIGN_OR_RETURN(harness->backend_, kernels::CreateBackend(options.device));
  ASSIGN_OR_RETURN(harness->model_,
                   BuildModel(spec, weights, *harness->backend_,
                              {.max_rows = options.max_rows, .weight_format = options.format}));
  const Model& model = *harness->model_;
  const int64_t per_token = KvBytesPerToken(*harness->backend_, model.kv_classes());
  const int64_t tokens = (spec.max_positions + 16) * options.max_sequences;
  ASSIGN_OR_RETURN(harness->cache_,
                   KvCache::Create(*harness->backend_, model.kv_classes(),
                                   {.memory_bytes = std::max<int64_t>(per_token, 64) * tokens,
                                    .max_sequences = options.max_sequences,
                                    .max_tokens = spec.max_positions}));
  ASSIGN_OR_RETURN(Workspace workspace,
                   Workspace::Create(*harness->backend_, model.WorkspaceBytes()));
  harness->workspace_ = std::make_unique<Workspace>(std::move(workspace));
  harness->placements_ = std::make_unique<KvPlacements>(model.kv_rules(), options.max_rows);
  harness->stats_.Reserve(options.max_rows, static_cast<int32_t>(model.instances().size()),
                          model.max_expert_ids_per_row() * options.max_rows);
  return harness;
}

std::vector<std::vector<float>> ModelHarness::Step(const std::vector<Piece>& pieces,
                                                   ForwardObserver* observer) {
  std::vector<int32_t> tokens, positions, wanted;
  std::vector<KvSequence> sequences;
  std::vector<uint8_t> is_prompt, in_encoder;
  std::vector<RowRouting> routing;
  for (const Piece& piece : pieces) {
    const size_t rows = piece.encoder.size() + piece.tokens.size();
    SLUICE_CHECK(cache_->Reserve(piece.sequence, static_cast<int32_t>(rows)).ok());
    const auto add = [&](int32_t token, int32_t position, bool encoder, bool asked_for) {
      if (asked_for) wanted.push_back(static_cast<int32_t>(tokens.size()));
      if (model_->spec().encoder() != nullptr) in_encoder.push_back(encoder ? 1 : 0);
      tokens.push_back(token);
      positions.push_back(position);
      sequences.push_back(piece.sequence);
      is_prompt.push_back(piece.is_prompt ? 1 : 0);
      routing.push_back(piece.routing);
    };
    for (size_t i = 0; i < piece.encoder.size(); ++i)
      add(piece.encoder[i], static_cast<int32_t>(i), true, false);
    for (size_t i = 0; i < piece.tokens.size(); ++i)
      add(piece.tokens[i], piece.first + static_cast<int32_t>(i), false,
          piece.unwanted.empty() || piece.unwanted[i] == 0);
  }
  const Batch batch{.tokens = tokens,
                    .positions = positions,
                    .sequences = sequences,
                    .is_prompt = is_prompt,
                    .routing = routing,
                    .wanted = wanted,
                    .in_encoder = in_encoder};
  stats_.Reset(batch.num_rows());
  placements_->Reset();
  ForwardContext context{.backend = *backend_,
                         .cache = *cache_,
                         .workspace = *workspace_,
                         .stats = stats_,
                         .placements = *placements_,
                         .batch = batch,
                         .observer = observer};
  std::vector<std::vector<float>> logits(wanted.size());
  model_->Forward(context, [&](int32_t index, std::span<float> row) {
    logits[static_cast<size_t>(index)].assign(row.begin(), row.end());
  });
  for (const Piece& piece : pieces) cache_->Commit(piece.sequence);
  return logits;
}

std::vector<std::vector<float>> ModelHarness::Run(const std::vector<int32_t>& tokens,
                                                  int32_t chunk,
                                                  const RowRouting& routing) {
  const KvSequence sequence = Open();
  std::vector<std::vector<float>> all;
  const auto total = static_cast<int32_t>(tokens.size());
  for (int32_t first = 0; first < total; first += chunk) {
    const int32_t last = std::min(total, first + chunk);
    Piece piece{.sequence = sequence,
                .tokens = {tokens.begin() + first, tokens.begin() + last},
                .first = first,
                .routing = routing};
    for (auto& row : Step({piece})) all.push_back(std::move(row));
  }
  Free(sequence);
  return all;
}

}  // namespace sluice::testing
