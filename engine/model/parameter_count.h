// How many numbers a spec's tensors have, and how many of them an average row reads. The one count:
// the model reports it, `sluice inspect` prints it, golden_test compares it with the files.
#pragma once

#include <cstdint>
#include <optional>

#include "engine/model/model_spec.h"

namespace sluice {

struct ParameterCount {
  int64_t total = 0;    // a tensor that is named twice counts once
  double active = 0.0;  // chosen experts, and of depth-routed layers the trained share
};

// Where no trained share is known every row is taken to run the layer. `spec` has passed
// ValidateSpec.
ParameterCount CountParameters(const ModelSpec& spec);

// None where the checkpoint does not say: top-k of a number of rows, or a router that was trained
// without a share.
std::optional<double> TrainedShare(const DepthRouterSpec& depth);

// Shares of the rows that run sublayer `index` of a layer, and that have keys and values in it.
struct SublayerShares {
  double rows = 1.0;
  double keys = 1.0;
};
SublayerShares SharesOf(const std::optional<DepthRouterSpec>& depth, size_t index);

}  // namespace sluice
