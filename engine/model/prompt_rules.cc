#include "engine/model/prompt_rules.h"

#include <algorithm>
#include <variant>

namespace sluice {
namespace {

template <typename Predicate>
bool AnyLayer(const StackSpec& stack, Predicate predicate) {
  return std::any_of(stack.groups.begin(), stack.groups.end(), [&](const LayerGroupSpec& group) {
    return std::any_of(group.layers.begin(), group.layers.end(), predicate);
  });
}

// Null unless experts of this sublayer choose rows.
const RouterSpec* RowChoosingRouter(const SublayerSpec& sublayer) {
  const auto* moe = std::get_if<MoeFfnSpec>(&sublayer.block);
  return moe != nullptr && moe->router.pick == ExpertPick::kExpertTopK ? &moe->router : nullptr;
}

}  // namespace

bool RoutesWholePrompt(const StackSpec& decoder) {
  return AnyLayer(decoder, [](const LayerSpec& layer) {
    if (layer.depth.has_value() && (layer.depth->prefill_decide == DepthDecide::kRouterTopK ||
                                    layer.depth->prefill_decide == DepthDecide::kPromptMean))
      return true;
    return std::any_of(
        layer.sublayers.begin(), layer.sublayers.end(),
        [](const SublayerSpec& sublayer) { return RowChoosingRouter(sublayer) != nullptr; });
  });
}

bool OnlyScores(const StackSpec& decoder) {
  return AnyLayer(decoder, [](const LayerSpec& layer) {
    return std::any_of(layer.sublayers.begin(), layer.sublayers.end(),
                       [](const SublayerSpec& sublayer) {
                         const RouterSpec* router = RowChoosingRouter(sublayer);
                         return router != nullptr && router->thresholds.empty();
                       });
  });
}

}  // namespace sluice
