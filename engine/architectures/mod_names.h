// The tensor names of the published Mixture-of-Depths code bases, seen from the file: ours
// (model.layers.0.mod_router over Hugging Face's names), sramshetty/mixture-of-depths (Meta's llama
// names, layers.0.router), astramind-ai/Mixture-of-depths (a routed layer is layers.0.block beside
// layers.0.router.weight_predictor), kyegomez/Mixture-of-Depths around the tower of
// llm-random/llm-random lizrd/core/llm.py (encoder.blocks.block_0). Names only; what they compute
// is mixture_of_depths.
#pragma once

#include "engine/architectures/config_reader.h"
#include "engine/architectures/decoder_parts.h"
#include "engine/model/model_spec.h"
#include "engine/weights/weight_store.h"

namespace sluice {

// Whether the file has tok_embeddings and attention.wq for embed_tokens and self_attn.q_proj.
bool HasMetaNames(const WeightStore& weights);

// Whether the file is a tower of llm-random, and one of its layers: LayerNorm, q, k and v of each
// head side by side, a plain FFN, no biases. A routed block is
// encoder.blocks.block_0.transformer_block.
bool HasTowerNames(const WeightStore& weights);
LayerSpec TowerLayer(const DecoderShape& shape, const WeightStore& weights, int32_t layer);

// Sets the tensors of the router and, where the file has one, of the predictor.
void NameDepthRouter(const WeightStore& weights,
                     int32_t layer,
                     int64_t dim,
                     DepthRouterSpec& router);

// Turns Hugging Face's names of a layer, or of the model around the layers, into those of the file.
void NameSublayers(const WeightStore& weights, int32_t layer, LayerSpec& spec);
void NameAround(ConfigReader& config, const WeightStore& weights, ModelSpec& spec);

}  // namespace sluice
