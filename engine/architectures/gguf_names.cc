// The tensors of a GGUF file under the names of the published checkpoints.
#include <algorithm>
#include <array>
#include <charconv>
#include <optional>
#include <string>
#include <string_view>

#include "absl/strings/numbers.h"
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
constexpr std::array<TensorName, 19> kInside = {{
    {"attn_norm", "input_layernorm"},
    {"attn_q", "self_attn.q_proj"},
    {"attn_k", "self_attn.k_proj"},
    {"attn_v", "self_attn.v_proj"},
    {"attn_output", "self_attn.o_proj"},
    {"attn_q_norm", "self_attn.q_norm"},
    {"attn_k_norm", "self_attn.k_norm"},
    {"ffn_norm", "post_attention_layernorm"},
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

// Its norms stand behind what they norm. Empty: a name that the model has not.
constexpr std::array<TensorName, 4> kInsideOlmo2 = {{
    {"attn_norm", ""},
    {"ffn_norm", ""},
    {"post_attention_norm", "post_attention_layernorm"},
    {"post_ffw_norm", "post_feedforward_layernorm"},
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

const TensorName* FindInside(std::string_view stem, std::string_view model_type) {
  const TensorName* name = nullptr;
  if (model_type == "mixtral") name = FindName(kInsideMixtral, stem);
  if (model_type == "olmo2") name = FindName(kInsideOlmo2, stem);
  if (name == nullptr) name = FindName(kInside, stem);
  return name != nullptr && name->published.empty() ? nullptr : name;
}

// The first Mixtral files have a tensor for each expert: "ffn_up.3" is row 3 of "ffn_up_exps".
std::optional<std::string> FindOneExpert(std::string_view stem, std::string_view model_type) {
  const size_t dot = stem.find('.');
  if (model_type != "mixtral" || dot == stem.npos) return std::nullopt;
  const std::string digits(stem.substr(dot + 1));
  int32_t expert = 0;
  const TensorName* name =
      FindName(kInsideMixtral, absl::StrCat(std::string(stem.substr(0, dot)), "_exps"));
  if (name == nullptr || !absl::SimpleAtoi(digits, &expert) || expert < 0 ||
      expert >= kMaxExperts || absl::StrCat(expert) != digits)
    return std::nullopt;
  return absl::StrReplaceAll(std::string(name->published), {{"{e}", digits}});
}

// What the published checkpoint calls it, without layer and suffix; nothing if the table has none.
std::optional<TensorName> Find(const SplitName& split,
                               const GgufFamily& family,
                               std::string& buffer) {
  const TensorName* name = split.layer.has_value() ? FindInside(split.stem, family.model_type)
                                                   : FindName(kOutside, split.stem);
  if (name != nullptr) return *name;
  if (!split.layer.has_value()) return std::nullopt;
  std::optional<std::string> expert = FindOneExpert(split.stem, family.model_type);
  if (!expert.has_value()) return std::nullopt;
  buffer = *std::move(expert);
  return TensorName{split.stem, buffer};
}

}  // namespace

absl::StatusOr<std::vector<GgufPart>> NameGgufTensors(const std::vector<GgufTensor>& tensors,
                                                      const GgufFamily& family) {
  std::vector<GgufPart> parts;
  for (size_t i = 0; i < tensors.size(); ++i) {
    const GgufTensor& tensor = tensors[i];
    const std::optional<SplitName> split = Split(tensor.name);
    std::string buffer;
    const std::optional<TensorName> name =
        split.has_value() ? Find(*split, family, buffer) : std::nullopt;
    if (!name.has_value()) {
      return absl::UnimplementedError(absl::StrCat("tensor ", QuotedTensorName(tensor.name),
                                                   " is not known in a ", family.architecture,
                                                   " model and may change what it computes"));
    }
    GgufPart part{absl::StrCat(std::string(name->published), std::string(split->suffix)), i,
                  tensor.shape};
    if (split->layer.has_value())
      part.name = absl::StrCat(LayerName(*split->layer), ".", part.name);
    if (name->is_row) part.shape.insert(part.shape.begin(), 1);
    if (name->published.find("{e}") != std::string_view::npos && tensor.shape.size() != 3) {
      return absl::InvalidArgumentError(absl::StrCat("tensor ", QuotedTensorName(tensor.name),
                                                     ": must be [experts, rows, columns]"));
    }
    parts.push_back(std::move(part));
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
