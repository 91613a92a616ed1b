#include "engine/chunk_rows.h"

#include <algorithm>
#include <cmath>
#include <string_view>
#include <variant>

#include "engine/model/prompt_rules.h"

namespace sluice {
namespace {

// Operations in the time that memory takes to deliver a byte, at half of the family's peak: 2.6 GHz
// and 15 GB/s a core, 1024, 64, 32 and 8 operations a cycle.
double BalanceOf(const std::vector<kernels::KernelChoice>& kernels, std::string_view op) {
  for (const kernels::KernelChoice& choice : kernels) {
    if (choice.op != op) continue;
    const std::string_view family = choice.kernel;
    if (family.starts_with("amx")) return 88.0;
    if (family.starts_with("avx512")) return 5.5;
    if (family.starts_with("avx2")) return 2.75;
  }
  return 0.7;
}

// Rows offered per row that a weight meets: experts over chosen ones, one over the capacity.
double SparsityOf(const LayerSpec& layer) {
  double rows = 1.0;
  for (const SublayerSpec& sublayer : layer.sublayers) {
    const auto* moe = std::get_if<MoeFfnSpec>(&sublayer.block);
    if (moe == nullptr || moe->router.pick != ExpertPick::kRowTopK || moe->router.top_k < 1)
      continue;
    rows = std::max(rows, static_cast<double>(moe->router.num_experts) / moe->router.top_k);
  }
  const double capacity = layer.depth.has_value() ? layer.depth->capacity : 0.0;
  return capacity > 0.0 && capacity < 1.0 ? rows / capacity : rows;
}

}  // namespace

bool ReadsWholePrompt(const ModelSpec& spec) {
  return spec.is_encoder() || spec.encoder() != nullptr || RoutesWholePrompt(spec.decoder());
}

int32_t ChunkRows(const EngineConfig& config,
                  const ModelSpec& spec,
                  const std::vector<kernels::KernelChoice>& kernels) {
  if (config.max_batch_tokens > 0) return config.max_batch_tokens;
  double sparsity = 1.0;
  for (const StackSpec& stack : spec.stacks) {
    for (const LayerGroupSpec& group : stack.groups) {
      for (const LayerSpec& layer : group.layers) sparsity = std::max(sparsity, SparsityOf(layer));
    }
  }
  // C* = (P / BW) (b_w / 2) max(E / k, 1 / c): two operations a weight of b_w bytes and row.
  // An int8 weight is half the bytes and twice the rate of a bf16 one: the same rows. An int4 one
  // has again half the bytes, and the rate of int8.
  const bool f32 = config.weights == kernels::WeightFormat::kF32;
  const double balance = BalanceOf(kernels, f32 ? "linear f32" : "linear bf16");
  const bool int4 = config.weights == kernels::WeightFormat::kInt4;
  const double rows = balance * (f32 ? 4.0 : int4 ? 1.0 : 2.0) / 2.0 * sparsity;
  const double tiles = std::ceil(std::min(rows, 1e6) / 64.0);
  const int32_t chunk = std::clamp(static_cast<int32_t>(tiles) * 64, kMinChunkRows, kMaxChunkRows);
  if (!ReadsWholePrompt(spec)) return chunk;
  const int32_t context = config.max_context_tokens > 0
                              ? std::min(config.max_context_tokens, spec.max_positions)
                              : spec.max_positions;
  return std::max(chunk, std::min(context, kMaxWholePromptRows));
}

}  // namespace sluice
