#include "engine/architectures/rope_parts.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <string>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "engine/architectures/decoder_parts.h"

namespace sluice {
namespace {

using nlohmann::json;

constexpr std::array<std::string_view, 16> kKnownKeys = {
    "rope_type",        "type",
    "rope_theta",       "partial_rotary_factor",
    "factor",           "original_max_position_embeddings",
    "low_freq_factor",  "high_freq_factor",
    "beta_fast",        "beta_slow",
    "mscale",           "mscale_all_dim",
    "attention_factor", "truncate",
    "finetuned",        "max_position_embeddings"};

constexpr double kLeastTheta = 1.0;
constexpr double kMostTheta = 1e12;

// transformers modeling_rope_utils.py, get_mscale.
double Mscale(double factor, double mscale) {
  return factor <= 1.0 ? 1.0 : 0.1 * mscale * std::log(factor) + 1.0;
}

class ScalingReader {
 public:
  ScalingReader(const json& object, const char* key, int32_t max_positions)
      : config_(object, absl::StrCat(key, ".")), max_positions_(max_positions) {}

  absl::Status Read(RopeConfig& found, double& share) {
    RefuseUnknownKeys();
    const char* type_key = config_.Has("rope_type") ? "rope_type" : "type";
    const std::string type = config_.String(type_key, "default");
    found.rope.theta = config_.Number("rope_theta", kLeastTheta, kMostTheta, found.rope.theta);
    share = config_.Number("partial_rotary_factor", 0.0, 1.0, share);
    if (type == "linear") {
      found.rope.linear_factor = config_.Number("factor", 1e-3, 1e6);
    } else if (type == "llama3") {
      ReadLlama3(found);
    } else if (type == "yarn") {
      ReadYarn(found);
    } else if (type == "dynamic" || type == "longrope" || type == "su" || type == "mrope") {
      config_.Unimplemented(type_key, type);
    } else if (type != "default") {
      config_.Invalid(type_key, "must be one of default, linear, llama3, yarn");
    }
    return config_.status();
  }

 private:
  void RefuseUnknownKeys() {
    for (const auto& [key, value] : config_.object().items()) {
      const bool known = std::find(kKnownKeys.begin(), kKnownKeys.end(), key) != kKnownKeys.end();
      if (!known && !value.is_null()) config_.Unimplemented(key.c_str(), "this key");
    }
  }

  void ReadLlama3(RopeConfig& found) {
    RopeScalingSpec scaling{.mix = RopeMix::kByRotations};
    scaling.factor = config_.Number("factor", 1e-3, 1e6);
    scaling.low_rotations = config_.Number("low_freq_factor", 1e-3, 1e6);
    scaling.high_rotations = config_.Number("high_freq_factor", 1e-3, 1e6);
    scaling.original_positions =
        config_.Int32("original_max_position_embeddings", 1, kMaxPositions);
    if (scaling.high_rotations <= scaling.low_rotations)
      config_.Invalid("high_freq_factor", "must be above low_freq_factor");
    found.rope.scaling = scaling;
  }

  void ReadYarn(RopeConfig& found) {
    RopeScalingSpec scaling{.mix = RopeMix::kByIndex};
    // Without a factor it is the ratio of the two context lengths (DeepSeek-V3's files).
    const bool has_original = config_.Has("original_max_position_embeddings");
    scaling.original_positions =
        config_.Int32("original_max_position_embeddings", 1, kMaxPositions, max_positions_);
    const double ratio = static_cast<double>(max_positions_) / scaling.original_positions;
    scaling.factor = has_original ? config_.Number("factor", 1e-3, 1e6, ratio)
                                  : config_.Number("factor", 1e-3, 1e6);
    scaling.low_rotations = config_.Number("beta_slow", 1e-3, 1e6, 1.0);
    scaling.high_rotations = config_.Number("beta_fast", 1e-3, 1e6, 32.0);
    if (scaling.high_rotations <= scaling.low_rotations)
      config_.Invalid("beta_fast", "must be above beta_slow");
    scaling.whole_indices = config_.Bool("truncate", true);
    const double mscale = config_.Number("mscale", 0.0, 1e3, 0.0);
    const double all_dim = config_.Number("mscale_all_dim", 0.0, 1e3, 0.0);
    const double inferred = mscale > 0.0 && all_dim > 0.0
                                ? Mscale(scaling.factor, mscale) / Mscale(scaling.factor, all_dim)
                                : Mscale(scaling.factor, 1.0);
    found.rope.amplitude = config_.Number("attention_factor", 1e-3, 1e3, inferred);
    if (all_dim > 0.0) found.logit_gain = std::pow(Mscale(scaling.factor, all_dim), 2.0);
    found.rope.scaling = scaling;
    if (found.rope.theta <= kLeastTheta) config_.Invalid("rope_theta", "must be above 1 with yarn");
  }

  ConfigReader config_;
  int32_t max_positions_ = 0;
};

}  // namespace

RopeConfig ReadRopeConfig(ConfigReader& config, int32_t head_dim, int32_t max_positions) {
  RopeConfig found;
  found.rope.theta = config.Number("rope_theta", kLeastTheta, kMostTheta, 10'000.0);
  double share = config.Number("partial_rotary_factor", 0.0, 1.0, 1.0);
  for (const char* key : {"rope_scaling", "rope_parameters"}) {
    const json* member = config.Member(key);
    if (member == nullptr) continue;
    if (!member->is_object()) {
      config.Invalid(key, "must be an object");
      continue;
    }
    config.Merge(ScalingReader(*member, key, max_positions).Read(found, share));
  }
  found.rope.rotary_dim = static_cast<int32_t>(static_cast<double>(head_dim) * share);
  if (found.rope.rotary_dim < 2 || found.rope.rotary_dim % 2 != 0) {
    config.Invalid("head_dim", "must leave an even number of rotated dimensions, at least 2");
  }
  return found;
}

}  // namespace sluice
