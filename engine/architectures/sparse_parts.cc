#include "engine/architectures/sparse_parts.h"

#include <algorithm>
#include <limits>
#include <string>

#include "engine/architectures/decoder_parts.h"
#include "engine/model/sparse_limits.h"
#include "engine/weights/safetensors.h"

namespace sluice {
namespace {

constexpr char kObject[] = "sparse_attention";
enum class Kind { kSinks, kBigbird };

// The keys that each kind of pattern reads; another one is a mistake.
void CheckKeys(ConfigReader& config, const nlohmann::json& object, Kind kind) {
  static const std::vector<std::string> kSinkKeys = {"type", "layers", "sink_tokens", "window"};
  static const std::vector<std::string> kBlockKeys = {
      "type",          "layers",        "block_size", "global_blocks",
      "window_blocks", "random_blocks", "random_seed"};
  const auto& known = kind == Kind::kSinks ? kSinkKeys : kBlockKeys;
  for (const auto& entry : object.items()) {
    if (std::find(known.begin(), known.end(), entry.key()) == known.end())
      config.Invalid(kObject, "has the unknown key " + QuotedTensorName(entry.key()));
  }
}

std::vector<int64_t> ReadLayers(ConfigReader& sparse, int32_t num_layers) {
  std::vector<int64_t> layers = sparse.Ints("layers", 0, num_layers - 1, kMaxLayers);
  if (sparse.Has("layers")) return layers;
  for (int32_t i = 0; i < num_layers; ++i) layers.push_back(i);
  return layers;
}

}  // namespace

std::vector<std::optional<SparsePatternSpec>> ReadSparseAttention(ConfigReader& config,
                                                                  int32_t num_layers) {
  std::vector<std::optional<SparsePatternSpec>> patterns(static_cast<size_t>(num_layers));
  const nlohmann::json* object = config.Member(kObject);
  if (object == nullptr) return patterns;
  if (!object->is_object()) {
    config.Invalid(kObject, "must be an object");
    return patterns;
  }
  ConfigReader sparse(*object, "sparse_attention.");
  const auto kind = static_cast<Kind>(sparse.Choice("type", {"sinks", "bigbird"}, std::nullopt));
  if (sparse.status().ok()) CheckKeys(config, *object, kind);
  SparsePatternSpec pattern;
  int64_t seed = 0;
  if (kind == Kind::kSinks) {
    pattern.first_blocks = sparse.Int32("sink_tokens", 0, kMaxPositions);
    pattern.behind = sparse.Int32("window", 1, kMaxPositions) - 1;
  } else {
    pattern.block = sparse.Int32("block_size", 1, kMaxPositions);
    pattern.first_blocks = sparse.Int32("global_blocks", 0, kMaxPositions, 1);
    pattern.behind = sparse.Int32("window_blocks", 0, kMaxPositions, 1);
    pattern.random_blocks = sparse.Int32("random_blocks", 0, kMaxRandomBlocks, 3);
    seed = sparse.Int("random_seed", 0, std::numeric_limits<int32_t>::max(), 0);
  }
  const std::vector<int64_t> layers = ReadLayers(sparse, num_layers);
  config.Merge(sparse.status());
  if (!config.status().ok()) return patterns;
  for (const int64_t layer : layers) {
    pattern.seed = pattern.random_blocks > 0 ? seed * kMaxLayers + layer : 0;
    patterns[static_cast<size_t>(layer)] = pattern;
  }
  return patterns;
}

}  // namespace sluice
