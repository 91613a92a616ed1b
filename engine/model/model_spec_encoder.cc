// The rules of ValidateSpec for encoders: bidirectional stacks that give hidden rows.
#include <string>

#include "absl/strings/str_cat.h"
#include "engine/model/model_spec_rules.h"
#include "engine/status_macros.h"

namespace sluice::spec_rules {
namespace {

absl::Status CheckMasks(const std::string& path,
                        const LayerSpec& layer,
                        MaskKind expected,
                        bool has_encoder) {
  for (size_t i = 0; i < layer.sublayers.size(); ++i) {
    const std::string at = absl::StrCat(path, ".sublayers[", i, "].block");
    const bool latent = std::holds_alternative<LatentAttentionSpec>(layer.sublayers[i].block);
    if (latent && expected == MaskKind::kFull) return NotRun(at, "latent attention in an encoder");
    const auto* attention = std::get_if<AttentionSpec>(&layer.sublayers[i].block);
    if (attention == nullptr) continue;
    if (attention->kv_source == KvSource::kEncoder && !has_encoder)
      return Invalid(at + ".kv_source", "there is no encoder before this stack");
    if (attention->mask != expected) {
      return Invalid(at + ".mask", expected == MaskKind::kFull ? "an encoder's must be full"
                                                               : "a decoder's must be causal");
    }
    if (expected == MaskKind::kFull && attention->window > 0)
      return NotRun(at + ".window", "a window behind the rows of an encoder (use a pattern)");
  }
  return absl::OkStatus();
}

// `has_encoder`: another stack stands before this one.
absl::Status CheckStackRole(const std::string& at, const StackSpec& stack, bool has_encoder) {
  const bool encoder = stack.role == StackRole::kEncoder;
  const MaskKind mask = encoder ? MaskKind::kFull : MaskKind::kCausal;
  for (size_t g = 0; g < stack.groups.size(); ++g) {
    const std::string path = absl::StrCat(at, ".groups[", g, "]");
    if ((encoder || has_encoder) && stack.groups[g].repeat.rows_may_stop())
      return NotRun(path + ".repeat", "an encoder or its decoder whose rows stop");
    for (size_t l = 0; l < stack.groups[g].layers.size(); ++l) {
      const LayerSpec& layer = stack.groups[g].layers[l];
      const std::string layer_path = absl::StrCat(path, ".layers[", l, "]");
      if ((encoder || has_encoder) && layer.depth.has_value())
        return NotRun(layer_path + ".depth", "a router of an encoder or its decoder");
      RETURN_IF_ERROR(CheckMasks(layer_path, layer, mask, has_encoder));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckRole(const ModelSpec& spec) {
  const StackSpec& last = spec.decoder();
  const bool encoder = last.role == StackRole::kEncoder;
  if (encoder != spec.is_encoder())
    return Invalid("head.pooling", "must be named exactly when the last stack is an encoder");
  if (encoder &&
      (!spec.head.weight.empty() || !spec.head.bias.empty() || spec.head.logit_scale != 1.0f))
    return Invalid("head", "an encoder's has no weights");
  if (const StackSpec* first = spec.encoder(); first != nullptr) {
    if (encoder || first->role != StackRole::kEncoder)
      return Invalid("stacks", "two of them are an encoder and a decoder");
    if (!(first->embedding == last.embedding))
      return NotRun("stacks[1].embedding", "another one than the encoder's");
    RETURN_IF_ERROR(CheckStackRole("stacks[0]", *first, false));
    RETURN_IF_ERROR(CheckRange("model", "decoder_start_token_id", spec.decoder_start_token_id, 0,
                               last.embedding.vocab_size - 1));
  }
  return CheckStackRole(absl::StrCat("stacks[", spec.stacks.size() - 1, "]"), last,
                        spec.encoder() != nullptr);
}

}  // namespace sluice::spec_rules
