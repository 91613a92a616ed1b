// The rules of ValidateSpec for encoders: bidirectional stacks that give hidden rows.
#include <string>

#include "absl/strings/str_cat.h"
#include "engine/model/model_spec_rules.h"
#include "engine/status_macros.h"

namespace sluice::spec_rules {
namespace {

absl::Status CheckMasks(const std::string& path, const LayerSpec& layer, MaskKind expected) {
  for (size_t i = 0; i < layer.sublayers.size(); ++i) {
    const std::string at = absl::StrCat(path, ".sublayers[", i, "].block");
    const bool latent = std::holds_alternative<LatentAttentionSpec>(layer.sublayers[i].block);
    if (latent && expected == MaskKind::kFull) return NotRun(at, "latent attention in an encoder");
    const auto* attention = std::get_if<AttentionSpec>(&layer.sublayers[i].block);
    if (attention == nullptr) continue;
    if (attention->mask != expected) {
      return Invalid(at + ".mask", expected == MaskKind::kFull ? "an encoder's must be full"
                                                               : "a decoder's must be causal");
    }
    if (expected == MaskKind::kFull && attention->window > 0)
      return NotRun(at + ".window", "a window behind the rows of an encoder (use a pattern)");
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckRole(const ModelSpec& spec) {
  const StackSpec& stack = spec.stacks[0];
  const bool encoder = stack.role == StackRole::kEncoder;
  if (encoder != spec.is_encoder())
    return Invalid("head.pooling", "must be named exactly when the stack is an encoder");
  if (encoder &&
      (!spec.head.weight.empty() || !spec.head.bias.empty() || spec.head.logit_scale != 1.0f))
    return Invalid("head", "an encoder's has no weights");
  const MaskKind mask = encoder ? MaskKind::kFull : MaskKind::kCausal;
  for (size_t g = 0; g < stack.groups.size(); ++g) {
    const std::string path = absl::StrCat("stacks[0].groups[", g, "]");
    if (encoder && stack.groups[g].repeat.rows_may_stop())
      return NotRun(path + ".repeat", "an encoder whose rows stop");
    for (size_t l = 0; l < stack.groups[g].layers.size(); ++l) {
      const LayerSpec& layer = stack.groups[g].layers[l];
      const std::string at = absl::StrCat(path, ".layers[", l, "]");
      if (encoder && layer.depth.has_value()) return NotRun(at + ".depth", "an encoder's router");
      RETURN_IF_ERROR(CheckMasks(at, layer, mask));
    }
  }
  return absl::OkStatus();
}

}  // namespace sluice::spec_rules
