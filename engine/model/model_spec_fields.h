// The fields of every part of ModelSpec with their JSON names: one list per struct, used by the
// writer and by the reader of model_spec_json.cc, so that they cannot disagree. Included there
// only.
#pragma once

#include "engine/model/model_spec.h"
#include "engine/model/model_spec_names.h"

namespace sluice::spec_fields {

// One list of fields per struct, used by the writer and by the reader, so that they cannot
// disagree.
template <typename Visitor>
void Fields(Visitor& visit, NormSpec& spec) {
  visit("kind", spec.kind);
  visit("epsilon", spec.epsilon);
  visit("weight", spec.weight);
  visit("bias", spec.bias);
  visit("weight_offset", spec.weight_offset);
}

template <typename Visitor>
void Fields(Visitor& visit, RopeScalingSpec& spec) {
  visit("mix", spec.mix);
  visit("factor", spec.factor);
  visit("original_positions", spec.original_positions);
  visit("low_rotations", spec.low_rotations);
  visit("high_rotations", spec.high_rotations);
  visit("whole_indices", spec.whole_indices);
}

template <typename Visitor>
void Fields(Visitor& visit, RopeSpec& spec) {
  visit("style", spec.style);
  visit("rotary_dim", spec.rotary_dim);
  visit("theta", spec.theta);
  visit("linear_factor", spec.linear_factor);
  visit("scaling", spec.scaling);
  visit("amplitude", spec.amplitude);
}

template <typename Visitor>
void Fields(Visitor& visit, ExpertCapacitySpec& spec) {
  visit("rows", spec.rows);
  visit("share", spec.share);
  visit("factor", spec.factor);
  visit("min_rows", spec.min_rows);
  visit("renormalize_kept", spec.renormalize_kept);
}

template <typename Visitor>
void Fields(Visitor& visit, RouterSpec& spec) {
  visit("score", spec.score);
  visit("num_experts", spec.num_experts);
  visit("num_null_experts", spec.num_null_experts);
  visit("top_k", spec.top_k);
  visit("renormalize", spec.renormalize);
  visit("renormalize_epsilon", spec.renormalize_epsilon);
  visit("scale", spec.scale);
  visit("weight", spec.weight);
  visit("bias", spec.bias);
  visit("selection_bias", spec.selection_bias);
  visit("hidden", spec.hidden);
  visit("hidden_weight", spec.hidden_weight);
  visit("hidden_bias", spec.hidden_bias);
  visit("hidden_activation", spec.hidden_activation);
  visit("input_scale", spec.input_scale);
  visit("num_groups", spec.num_groups);
  visit("top_groups", spec.top_groups);
  visit("group_score", spec.group_score);
  visit("pick", spec.pick);
  visit("thresholds", spec.thresholds);
  visit("capacity", spec.capacity);
}

template <typename Visitor>
void Fields(Visitor& visit, SoftRouterSpec& spec) {
  visit("num_experts", spec.num_experts);
  visit("top_k", spec.top_k);
  visit("weight", spec.weight);
  visit("bias", spec.bias);
}

template <typename Visitor>
void Fields(Visitor& visit, SoftScalingSpec& spec) {
  visit("router", spec.router);
  visit("heads", spec.heads);
  visit("weight", spec.weight);
}

template <typename Visitor>
void Fields(Visitor& visit, SoftLowRankSpec& spec) {
  visit("router", spec.router);
  visit("rank", spec.rank);
  visit("scale", spec.scale);
  visit("down", spec.down);
  visit("up", spec.up);
}

template <typename Visitor>
void Fields(Visitor& visit, ProjectionSpec& spec) {
  visit("in", spec.in);
  visit("out", spec.out);
  visit("weight", spec.weight);
  visit("bias", spec.bias);
  visit("transposed", spec.transposed);
  visit("row_begin", spec.row_begin);
  visit("row_run", spec.row_run);
  visit("row_stride", spec.row_stride);
  visit("experts", spec.experts);
  visit("split_by_head", spec.split_by_head);
  visit("low_rank", spec.low_rank);
  visit("scaling", spec.scaling);
}

template <typename Visitor>
void Fields(Visitor& visit, RelativePositionSpec& spec) {
  visit("weight", spec.weight);
  visit("max_distance", spec.max_distance);
  visit("scale", spec.scale);
}

template <typename Visitor>
void Fields(Visitor& visit, PositionBiasSpec& spec) {
  visit("weight", spec.weight);
  visit("num_buckets", spec.num_buckets);
  visit("max_distance", spec.max_distance);
}

template <typename Visitor>
void Fields(Visitor& visit, SparsePatternSpec& spec) {
  visit("block", spec.block);
  visit("first_blocks", spec.first_blocks);
  visit("last_blocks", spec.last_blocks);
  visit("behind", spec.behind);
  visit("ahead", spec.ahead);
  visit("global_queries", spec.global_queries);
  visit("first_repeats", spec.first_repeats);
  visit("full_up_to", spec.full_up_to);
  visit("random_blocks", spec.random_blocks);
  visit("seed", spec.seed);
}

template <typename Visitor>
void Fields(Visitor& visit, AttentionSpec& spec) {
  visit("num_heads", spec.num_heads);
  visit("num_kv_heads", spec.num_kv_heads);
  visit("head_dim", spec.head_dim);
  visit("q", spec.q);
  visit("k", spec.k);
  visit("v", spec.v);
  visit("o", spec.o);
  visit("q_norm", spec.q_norm);
  visit("k_norm", spec.k_norm);
  visit("norm_per_head", spec.norm_per_head);
  visit("clip_qkv", spec.clip_qkv);
  visit("rope", spec.rope);
  visit("relative", spec.relative);
  visit("position_bias", spec.position_bias);
  visit("scale", spec.scale);
  visit("window", spec.window);
  visit("mask", spec.mask);
  visit("sparse", spec.sparse);
  visit("kv_source", spec.kv_source);
  visit("sinks", spec.sinks);
  visit("value_from_residual", spec.value_from_residual);
}

template <typename Visitor>
void Fields(Visitor& visit, LatentAttentionSpec& spec) {
  visit("num_heads", spec.num_heads);
  visit("nope_dim", spec.nope_dim);
  visit("rope_dim", spec.rope_dim);
  visit("value_dim", spec.value_dim);
  visit("latent_dim", spec.latent_dim);
  visit("q_down", spec.q_down);
  visit("q_norm", spec.q_norm);
  visit("q", spec.q);
  visit("kv_down", spec.kv_down);
  visit("kv_norm", spec.kv_norm);
  visit("kv_up", spec.kv_up);
  visit("o", spec.o);
  visit("rope", spec.rope);
  visit("scale", spec.scale);
}

template <typename Visitor>
void Fields(Visitor& visit, DenseFfnSpec& spec) {
  visit("hidden", spec.hidden);
  visit("gated", spec.gated);
  visit("activation", spec.activation);
  visit("gate", spec.gate);
  visit("up", spec.up);
  visit("down", spec.down);
  visit("input_from_residual", spec.input_from_residual);
  visit("hidden_scaling", spec.hidden_scaling);
}

template <typename Visitor>
void Fields(Visitor& visit, MixtureFfnSpec& spec) {
  visit("group_size", spec.group_size);
  visit("num_experts", spec.num_experts);
  visit("hidden", spec.hidden);
  visit("activation", spec.activation);
  visit("temperature", spec.temperature);
  visit("emit_over_experts", spec.emit_over_experts);
  visit("discrete", spec.discrete);
  visit("controller", spec.controller);
  visit("up", spec.up);
  visit("down", spec.down);
}

template <typename Visitor>
void Fields(Visitor& visit, ExpertWeightsSpec& spec) {
  visit("gate", spec.gate);
  visit("up", spec.up);
  visit("down", spec.down);
  visit("transposed", spec.transposed);
  visit("fused_gate_up", spec.fused_gate_up);
  visit("interleaved", spec.interleaved);
  visit("gate_bias", spec.gate_bias);
  visit("up_bias", spec.up_bias);
  visit("down_bias", spec.down_bias);
  visit("encoding", spec.encoding);
}

template <typename Visitor>
void Fields(Visitor& visit, SwigluClamp& spec) {
  visit("alpha", spec.alpha);
  visit("limit", spec.limit);
}

template <typename Visitor>
void Fields(Visitor& visit, MoeFfnSpec& spec) {
  visit("router", spec.router);
  visit("hidden", spec.hidden);
  visit("gated", spec.gated);
  visit("activation", spec.activation);
  visit("clamp", spec.clamp);
  visit("experts", spec.experts);
  visit("input_from_residual", spec.input_from_residual);
  visit("shared", spec.shared);
  visit("shared_gate", spec.shared_gate);
  visit("output_bias", spec.output_bias);
}

template <typename Visitor>
void Fields(Visitor& visit, SublayerSpec& spec) {
  visit("input_norm", spec.input_norm);
  visit("output_norm", spec.output_norm);
  visit("residual_norm", spec.residual_norm);
  visit("block", spec.block);
  visit("residual_scale", spec.residual_scale);
}

template <typename Visitor>
void Fields(Visitor& visit, DepthRouterSpec& spec) {
  visit("weight", spec.weight);
  visit("bias", spec.bias);
  visit("hidden", spec.hidden);
  visit("input_scale", spec.input_scale);
  visit("reads_normed", spec.reads_normed);
  visit("first_sublayer", spec.first_sublayer);
  visit("predictor", spec.predictor);
  visit("gate", spec.gate);
  visit("gate_place", spec.gate_place);
  visit("softmax_over_selected", spec.softmax_over_selected);
  visit("combine", spec.combine);
  visit("decide", spec.decide);
  visit("prefill_decide", spec.prefill_decide);
  visit("position", spec.position);
  visit("kv", spec.kv);
  visit("force_first", spec.force_first);
  visit("gate_scale", spec.gate_scale);
  visit("nested", spec.nested);
  visit("threshold", spec.threshold);
  visit("threshold_inclusive", spec.threshold_inclusive);
  visit("capacity", spec.capacity);
  visit("capacity_rows", spec.capacity_rows);
  visit("min_rows", spec.min_rows);
  visit("strict_top_k", spec.strict_top_k);
  visit("score_quantiles", spec.score_quantiles);
}

template <typename Visitor>
void Fields(Visitor& visit, LayerSpec& spec) {
  visit("depth", spec.depth);
  visit("sublayers", spec.sublayers);
}

template <typename Visitor>
void Fields(Visitor& visit, HaltingGateSpec& spec) {
  visit("hidden", spec.hidden);
  visit("out", spec.out);
  visit("threshold", spec.threshold);
}

template <typename Visitor>
void Fields(Visitor& visit, ExitSpec& spec) {
  visit("weight", spec.weight);
  visit("bias", spec.bias);
  visit("threshold", spec.threshold);
  visit("output", spec.output);
}

template <typename Visitor>
void Fields(Visitor& visit, StepSignalSpec& spec) {
  visit("positions", spec.positions);
  visit("steps", spec.steps);
  visit("step_weight", spec.step_weight);
}

template <typename Visitor>
void Fields(Visitor& visit, RepeatSpec& spec) {
  visit("times", spec.times);
  visit("halting", spec.halting);
  visit("adjustable", spec.adjustable);
  visit("injection", spec.injection);
  visit("gate", spec.gate);
  visit("depth_router", spec.depth_router);
  visit("exit", spec.exit);
  visit("kv", spec.kv);
  visit("signal", spec.signal);
  visit("norm", spec.norm);
}

template <typename Visitor>
void Fields(Visitor& visit, LayerGroupSpec& spec) {
  visit("name", spec.name);
  visit("repeat", spec.repeat);
  visit("layers", spec.layers);
  visit("output_norm", spec.output_norm);
}

template <typename Visitor>
void Fields(Visitor& visit, EmbeddingSpec& spec) {
  visit("vocab_size", spec.vocab_size);
  visit("dim", spec.dim);
  visit("weight", spec.weight);
  visit("position_weight", spec.position_weight);
  visit("token_type_weight", spec.token_type_weight);
  visit("num_token_types", spec.num_token_types);
  visit("scale", spec.scale);
  visit("norm", spec.norm);
}

template <typename Visitor>
void Fields(Visitor& visit, HeadSpec& spec) {
  visit("pooling", spec.pooling);
  visit("weight", spec.weight);
  visit("bias", spec.bias);
  visit("logit_scale", spec.logit_scale);
}

template <typename Visitor>
void Fields(Visitor& visit, StackSpec& spec) {
  visit("role", spec.role);
  visit("embedding", spec.embedding);
  visit("groups", spec.groups);
  visit("final_norm", spec.final_norm);
}

template <typename Visitor>
void Fields(Visitor& visit, ModelSpec& spec) {
  visit("family", spec.family);
  visit("stacks", spec.stacks);
  visit("head", spec.head);
  visit("max_positions", spec.max_positions);
  visit("eos_token_ids", spec.eos_token_ids);
  visit("decoder_start_token_id", spec.decoder_start_token_id);
}

}  // namespace sluice::spec_fields
