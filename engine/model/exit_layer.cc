#include "engine/model/exit_layer.h"

#include "absl/strings/str_cat.h"

namespace sluice {

// A row that resumes at the cut has forgotten what a repeat or a nested router knew of it.
absl::Status CheckExitLayer(const ModelSpec& spec, int32_t exit_layer) {
  const StackSpec& stack = spec.decoder();
  if (spec.is_encoder() || spec.encoder() != nullptr)
    return absl::UnimplementedError(
        "an early exit (--draft-exit-layer) of a model with an encoder");
  int32_t num_layers = 0;
  for (const LayerGroupSpec& group : stack.groups) {
    bool plain = group.repeat == RepeatSpec{} && !group.output_norm.has_value();
    for (const LayerSpec& layer : group.layers) {
      plain = plain && !(layer.depth.has_value() && layer.depth->nested);
    }
    if (!plain) {
      return absl::UnimplementedError(
          "an early exit (--draft-exit-layer) needs a model whose layers run once, without halting "
          "or nested routers");
    }
    num_layers += static_cast<int32_t>(group.layers.size());
  }
  if (exit_layer > 0 && exit_layer < num_layers) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("the model has ", num_layers,
                                                 " layers: --draft-exit-layer must be 1 to ",
                                                 num_layers - 1, ", not ", exit_layer));
}

}  // namespace sluice
