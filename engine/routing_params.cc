#include "engine/routing_params.h"

#include <algorithm>
#include <string>

#include "engine/request_error.h"
#include "engine/status_macros.h"

namespace sluice {
namespace {

RowRouting::Decide ToDecide(RoutingParams::Mode mode) {
  switch (mode) {
    case RoutingParams::Mode::kThreshold:
      return RowRouting::Decide::kThreshold;
    case RoutingParams::Mode::kPredictor:
      return RowRouting::Decide::kPredictor;
    case RoutingParams::Mode::kTopKPrompt:
      return RowRouting::Decide::kTopKPrompt;
    case RoutingParams::Mode::kCapacity:
      return RowRouting::Decide::kCapacity;
    case RoutingParams::Mode::kPromptMean:  // offered only where it is the model's own rule
    case RoutingParams::Mode::kNoDrop:
    case RoutingParams::Mode::kModelDefault:
    case RoutingParams::Mode::kIsolated:
    case RoutingParams::Mode::kCohort:
      break;
  }
  return RowRouting::Decide::kModel;
}

bool DecidesByPredictor(const RoutingParams& params, const ModelCard& model) {
  if (params.mode == RoutingParams::Mode::kModelDefault) {
    return !model.routing_modes.empty() && model.routing_modes.front() == "predictor";
  }
  return params.mode == RoutingParams::Mode::kPredictor;
}

absl::Status ResolveExperts(const RoutingParams& params,
                            const ModelCard& model,
                            RowRouting* routing) {
  if (params.experts_per_token.has_value()) {
    if (!model.has_experts) {
      return BadRequest("unsupported_parameter", "routing.experts_per_token",
                        "this model has no experts");
    }
    if (model.experts_per_token == 0) {
      return BadRequest("unsupported_parameter", "routing.experts_per_token",
                        "this model's experts choose their tokens; a token has no number of them");
    }
    if (*params.experts_per_token < 1 || *params.experts_per_token > model.experts_per_token) {
      return BadRequest("integer_out_of_range", "routing.experts_per_token",
                        "must be between 1 and the model's own number");
    }
    routing->experts_per_token = *params.experts_per_token;
  }
  if (!params.expert_threshold.has_value()) return absl::OkStatus();
  if (!model.has_experts) {
    return BadRequest("unsupported_parameter", "routing.expert_threshold",
                      "this model has no experts");
  }
  if (!(*params.expert_threshold >= 0.0 && *params.expert_threshold <= 1.0)) {
    return BadRequest("number_out_of_range", "routing.expert_threshold", "must be between 0 and 1");
  }
  routing->expert_threshold = static_cast<float>(*params.expert_threshold);
  return absl::OkStatus();
}

}  // namespace

bool NeedsWholePrompt(const RoutingParams& params, const ModelCard& model) {
  // An encoder's rows see later ones.
  if (model.embedding_size > 0 || model.decoder_start_token >= 0) return true;
  if (params.mode == RoutingParams::Mode::kModelDefault) {
    return model.default_needs_whole_prompt;
  }
  return params.mode == RoutingParams::Mode::kTopKPrompt ||
         params.mode == RoutingParams::Mode::kPromptMean ||
         params.mode == RoutingParams::Mode::kCapacity;
}

absl::StatusOr<RowRouting> ResolveRouting(const RoutingParams& params, const ModelCard& model) {
  RowRouting routing;
  routing.decide = ToDecide(params.mode);
  if (params.mode != RoutingParams::Mode::kModelDefault &&
      std::find(model.routing_modes.begin(), model.routing_modes.end(),
                RoutingModeName(params.mode)) == model.routing_modes.end()) {
    return BadRequest("unsupported_parameter", "routing.mode",
                      "this model does not offer that routing mode; see /v1/models");
  }
  if (params.capacity.has_value()) {
    if (model.routed_layers.empty()) {
      return BadRequest("unsupported_parameter", "routing.capacity",
                        "this model has no depth-routed layers");
    }
    if (!(*params.capacity >= 0.0 && *params.capacity <= 1.0)) {
      return BadRequest("number_out_of_range", "routing.capacity", "must be between 0 and 1");
    }
    const bool exact = *params.capacity == 0.0 || *params.capacity == 1.0;
    if (!exact && DecidesByPredictor(params, model)) {
      return BadRequest(
          "unsupported_parameter", "routing.capacity",
          "the calibration is of the router, not of the predictor; only 0 and 1 are honoured");
    }
    if (!exact && !model.has_capacity_table) {
      return BadRequest(
          "unsupported_parameter", "routing.capacity",
          "this model's config.json has no score_quantiles; only 0 and 1 are honoured");
    }
    routing.capacity = static_cast<float>(*params.capacity);
  }
  RETURN_IF_ERROR(ResolveExperts(params, model, &routing));
  if (params.max_depth.has_value()) {
    if (model.max_depth == 0) {
      return BadRequest("unsupported_parameter", "routing.max_depth",
                        "this model does not repeat its layers as often as a request asks");
    }
    if (*params.max_depth < 1 || *params.max_depth > model.max_depth) {
      return BadRequest("integer_out_of_range", "routing.max_depth",
                        "must be between 1 and the model's own number of repeats");
    }
    routing.max_depth = *params.max_depth;
  }
  if (params.exit_threshold.has_value()) {
    if (!model.has_exit_threshold) {
      return BadRequest("unsupported_parameter", "routing.exit_threshold",
                        "this model's rows do not stop by a threshold");
    }
    if (!(*params.exit_threshold >= 0.0 && *params.exit_threshold <= 1.0)) {
      return BadRequest("number_out_of_range", "routing.exit_threshold", "must be between 0 and 1");
    }
    routing.exit_threshold = static_cast<float>(*params.exit_threshold);
  }
  return routing;
}

}  // namespace sluice
