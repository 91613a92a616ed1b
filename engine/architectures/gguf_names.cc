// The tensors of a GGUF file under the names of the published checkpoints.
#include <algorithm>
#include <array>
#include <charconv>
#include <optional>
#include <string>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "engine/architectures/decoder_parts.h"
#include "engine/architectures/gguf_model.h"
#include "engine/status_macros.h"
#include "engine/weights/safetensors.h"

namespace sluice {
namespace {

struct TensorName {
  std::string_view gguf;
  std::string_view published;  // "{e}": one tensor for each expert
  bool is_row = false;         // published as [1, n]
};

constexpr std::array<TensorName, 4> kOutside = {{
    {"token_embd", "model.embed_tokens"},
    {"output_norm", "model.norm"},
    {"output", "lm_head"},
    {"rope_freqs", "rope_freqs"},
}};

// Behind "blk.N." and "model.layers.N.".
constexpr std::array<TensorName, 21> kInside = {{
    {"attn_norm", "input_layernorm"},
    {"attn_q", "self_attn.q_proj"},
    {"attn_k", "self_attn.k_proj"},
    {"attn_v", "self_attn.v_proj"},
    {"attn_output", "self_attn.o_proj"},
    {"attn_q_norm", "self_attn.q_norm"},
    {"attn_k_norm", "self_attn.k_norm"},
    {"ffn_norm", "post_attention_layernorm"},
    {"post_attention_norm", "post_attention_layernorm"},
    {"post_ffw_norm", "post_feedforward_layernorm"},
    {"ffn_gate", "mlp.gate_proj"},
    {"ffn_up", "mlp.up_proj"},
    {"ffn_down", "mlp.down_proj"},
    {"ffn_gate_inp", "mlp.gate"},
    {"ffn_gate_exps", "mlp.experts.{e}.gate_proj"},
    {"ffn_up_exps", "mlp.experts.{e}.up_proj"},
    {"ffn_down_exps", "mlp.experts.{e}.down_proj"},
    {"ffn_gate_inp_shexp", "mlp.shared_expert_gate", /*is_row=*/true},
    {"ffn_gate_shexp", "mlp.shared_expert.gate_proj"},
    {"ffn_up_shexp", "mlp.shared_expert.up_proj"},
    {"ffn_down_shexp", "mlp.shared_expert.down_proj"},
}};

constexpr std::array<TensorName, 4> kInsideMixtral = {{
    {"ffn_gate_inp", "block_sparse_moe.gate"},
    {"ffn_gate_exps", "block_sparse_moe.experts.{e}.w1"},
    {"ffn_up_exps", "block_sparse_moe.experts.{e}.w3"},
    {"ffn_down_exps", "block_sparse_moe.experts.{e}.w2"},
}};

template <size_t n>
const TensorName* FindName(const std::array<TensorName, n>& names, std::string_view gguf) {
  const auto* it = std::find_if(names.begin(), names.end(),
                                [&](const TensorName& name) { return name.gguf == gguf; });
  return it == names.end() ? nullptr : it;
}

// "blk.12.attn_q.weight" in its pieces.
struct SplitName {
  std::optional<int32_t> layer;
  std::string_view stem;
  std::string_view suffix;  // ".weight" or ".bias"
};

std::optional<SplitName> Split(std::string_view name) {
  SplitName split;
  if (name.starts_with("blk.")) {
    name.remove_prefix(4);
    int32_t layer = 0;
    const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), layer);
    const auto digits = static_cast<size_t>(end - name.data());
    if (error != std::errc() || layer < 0 || layer >= kMaxLayers || digits >= name.size() ||
        name[digits] != '.')
      return std::nullopt;
    split.layer = layer;
    name.remove_prefix(digits + 1);
  }
  const size_t dot = name.rfind('.');
  if (dot == std::string_view::npos) return std::nullopt;
  split.stem = name.substr(0, dot);
  split.suffix = name.substr(dot);
  if (split.suffix != ".weight" && split.suffix != ".bias") return std::nullopt;
  return split;
}

const TensorName* Find(const SplitName& split, const GgufFamily& family) {
  if (!split.layer.has_value()) return FindName(kOutside, split.stem);
  const bool mixtral = std::string_view(family.model_type) == "mixtral";
  const TensorName* name = mixtral ? FindName(kInsideMixtral, split.stem) : nullptr;
  return name != nullptr ? name : FindName(kInside, split.stem);
}

absl::Status AppendExperts(const GgufTensor& tensor,
                           const GgufPart& whole,
                           std::vector<GgufPart>& parts) {
  if (tensor.shape.size() != 3 || tensor.shape[0] > kMaxExperts) {
    return absl::InvalidArgumentError(absl::StrCat("tensor ", QuotedTensorName(tensor.name),
                                                   ": must be [experts, rows, columns]"));
  }
  const int64_t elements = tensor.shape[1] * tensor.shape[2];
  for (int64_t e = 0; e < tensor.shape[0]; ++e) {
    parts.push_back({absl::StrReplaceAll(whole.name, {{"{e}", absl::StrCat(e)}}),
                     whole.tensor,
                     e * elements,
                     {tensor.shape[1], tensor.shape[2]}});
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::vector<GgufPart>> NameGgufTensors(const std::vector<GgufTensor>& tensors,
                                                      const GgufFamily& family) {
  std::vector<GgufPart> parts;
  for (size_t i = 0; i < tensors.size(); ++i) {
    const GgufTensor& tensor = tensors[i];
    const std::optional<SplitName> split = Split(tensor.name);
    const TensorName* name = split.has_value() ? Find(*split, family) : nullptr;
    if (name == nullptr) {
      return absl::UnimplementedError(absl::StrCat("tensor ", QuotedTensorName(tensor.name),
                                                   " is not known in a ", family.architecture,
                                                   " model and may change what it computes"));
    }
    GgufPart part{absl::StrCat(std::string(name->published), std::string(split->suffix)), i, 0,
                  tensor.shape};
    if (split->layer.has_value())
      part.name = absl::StrCat(LayerName(*split->layer), ".", part.name);
    if (name->is_row) part.shape.insert(part.shape.begin(), 1);
    if (name->published.find("{e}") != std::string_view::npos) {
      RETURN_IF_ERROR(AppendExperts(tensor, part, parts));
    } else {
      parts.push_back(std::move(part));
    }
  }
  std::vector<std::string_view> names;
  for (const GgufPart& part : parts) names.push_back(part.name);
  std::sort(names.begin(), names.end());
  const auto twice = std::adjacent_find(names.begin(), names.end());
  if (twice == names.end()) return parts;
  return absl::InvalidArgumentError(
      absl::StrCat("two tensors stand for ", QuotedTensorName(*twice)));
}

}  // namespace sluice
