#include "engine/model/model_spec_rules.h"

#include <cmath>

#include "absl/strings/str_cat.h"
#include "engine/status_macros.h"

namespace sluice::spec_rules {

absl::Status Invalid(const std::string& path, const std::string& what) {
  return absl::InvalidArgumentError(absl::StrCat(path, ": ", what));
}

absl::Status NotRun(const std::string& path, const std::string& what) {
  return absl::UnimplementedError(absl::StrCat(path, ": ", what, " is not implemented"));
}

absl::Status CheckRange(
    const std::string& path, const char* field, int64_t value, int64_t lo, int64_t hi) {
  if (value >= lo && value <= hi) return absl::OkStatus();
  return Invalid(path, absl::StrCat(field, " is ", value, ", must be between ", lo, " and ", hi));
}

absl::Status CheckEqual(const std::string& path,
                        const char* field,
                        int64_t value,
                        int64_t expected) {
  if (value == expected) return absl::OkStatus();
  return Invalid(path, absl::StrCat(field, " is ", value, ", must be ", expected));
}

absl::Status CheckFloat(
    const std::string& path, const char* field, double value, double lo, double hi) {
  if (std::isfinite(value) && value >= lo && value <= hi) return absl::OkStatus();
  return Invalid(path, absl::StrCat(field, " is ", value, ", must be between ", lo, " and ", hi));
}

absl::Status CheckName(const std::string& path, const char* field, const std::string& name) {
  if (!name.empty()) return absl::OkStatus();
  return Invalid(path, absl::StrCat(field, " names no tensor"));
}

absl::Status CheckNorm(const std::string& path, const std::optional<NormSpec>& norm) {
  if (!norm.has_value()) return absl::OkStatus();
  RETURN_IF_ERROR(CheckFloat(path, "epsilon", static_cast<double>(norm->epsilon), 0.0, 1.0));
  RETURN_IF_ERROR(
      CheckFloat(path, "weight_offset", static_cast<double>(norm->weight_offset), -16.0, 16.0));
  if (norm->kind == NormKind::kRms && !norm->bias.empty())
    return NotRun(path, "an RMS norm with a bias");
  return absl::OkStatus();
}

namespace {

absl::Status CheckGroups(const std::string& path, const RouterSpec& router) {
  RETURN_IF_ERROR(CheckRange(path, "num_groups", router.num_groups, 1, router.num_experts));
  RETURN_IF_ERROR(CheckRange(path, "top_groups", router.top_groups, 1, router.num_groups));
  if (router.num_groups == 1) return absl::OkStatus();
  if (router.num_experts % router.num_groups != 0) {
    return Invalid(path, absl::StrCat("num_experts ", router.num_experts,
                                      " is no multiple of num_groups ", router.num_groups));
  }
  const int64_t size = router.num_experts / router.num_groups;
  RETURN_IF_ERROR(CheckRange(path, "top_k", router.top_k, 1, router.top_groups * size));
  if (router.group_score == GroupScore::kTopTwoSum && size < 2)
    return Invalid(path, "group_score top_two_sum needs groups of two experts");
  if (router.num_null_experts > 0) return NotRun(path, "a null expert beside groups");
  return absl::OkStatus();
}

// Outputs in runs of a fused tensor: of a plain [out, in] matrix only.
absl::Status CheckRuns(const std::string& path, const ProjectionSpec& projection) {
  if (projection.row_run == 0) return CheckEqual(path, "row_stride", projection.row_stride, 0);
  RETURN_IF_ERROR(CheckRange(path, "row_run", projection.row_run, 1, projection.out));
  if (projection.out % projection.row_run != 0) return Invalid(path, "row_run must divide out");
  RETURN_IF_ERROR(
      CheckRange(path, "row_stride", projection.row_stride, projection.row_run, kMaxHidden));
  RETURN_IF_ERROR(CheckRange(path, "row_begin", projection.row_begin, 0,
                             projection.row_stride - projection.row_run));
  if (projection.transposed || projection.experts.has_value() || !projection.bias.empty())
    return NotRun(path, "row_run beside a bias, experts or a transposed tensor");
  return absl::OkStatus();
}

}  // namespace

namespace {

absl::Status CheckCapacity(const std::string& path, const ExpertCapacitySpec& capacity) {
  RETURN_IF_ERROR(CheckRange(path, "rows", capacity.rows, 0, kMaxPositions));
  RETURN_IF_ERROR(CheckFloat(path, "share", capacity.share, 0.0, 1.0));
  RETURN_IF_ERROR(CheckFloat(path, "factor", capacity.factor, 0.0, kMaxExperts));
  RETURN_IF_ERROR(CheckRange(path, "min_rows", capacity.min_rows, 0, kMaxPositions));
  const int set = (capacity.rows > 0) + (capacity.share > 0.0) + (capacity.factor > 0.0);
  return set == 1 ? absl::OkStatus()
                  : Invalid(path, "needs exactly one of rows, share and factor above 0");
}

// Experts that choose rows, or rows that take experts above thresholds.
absl::Status CheckPick(const std::string& path, const RouterSpec& router) {
  if (router.capacity.has_value())
    RETURN_IF_ERROR(CheckCapacity(path + ".capacity", *router.capacity));
  if (router.pick == ExpertPick::kRowTopK) {
    return router.thresholds.empty() ? absl::OkStatus()
                                     : Invalid(path, "thresholds need another pick");
  }
  RETURN_IF_ERROR(CheckEqual(path, "top_k", router.top_k, router.num_experts));
  if (!router.thresholds.empty() || router.pick == ExpertPick::kThreshold)
    RETURN_IF_ERROR(CheckEqual(path, "number of thresholds",
                               static_cast<int64_t>(router.thresholds.size()), router.num_experts));
  for (const float threshold : router.thresholds)
    RETURN_IF_ERROR(CheckFloat(path, "thresholds", static_cast<double>(threshold), 0.0, 1.0));
  if (router.pick == ExpertPick::kExpertTopK && !router.capacity.has_value())
    return Invalid(path, "experts that choose rows need a capacity");
  if (router.capacity.has_value() && router.capacity->renormalize_kept)
    return NotRun(path + ".capacity", "renormalize_kept where experts choose");
  if (router.renormalize || router.score == ScoreFunction::kSoftmaxOverTopK ||
      router.scale != 1.0f || router.num_null_experts > 0 || router.num_groups > 1 ||
      !router.selection_bias.empty())
    return NotRun(
        path + ".pick",
        "renormalisation, a scale, null experts, groups or a selection bias where experts "
        "choose");
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckRouter(const std::string& path, const RouterSpec& router) {
  if (router.pick != ExpertPick::kRowTopK || router.capacity.has_value())
    return NotRun(path, "a choice by experts, or a capacity of experts, outside of FFN experts");
  return CheckFfnRouter(path, router);
}

absl::Status CheckFfnRouter(const std::string& path, const RouterSpec& router) {
  RETURN_IF_ERROR(CheckRange(path, "num_experts", router.num_experts, 1, kMaxExperts));
  RETURN_IF_ERROR(CheckRange(path, "num_null_experts", router.num_null_experts, 0, kMaxExperts));
  RETURN_IF_ERROR(CheckRange(path, "top_k", router.top_k, 1, router.num_experts));
  RETURN_IF_ERROR(CheckFloat(path, "scale", static_cast<double>(router.scale), -1e6, 1e6));
  RETURN_IF_ERROR(CheckFloat(path, "renormalize_epsilon",
                             static_cast<double>(router.renormalize_epsilon), 0.0, 1.0));
  RETURN_IF_ERROR(CheckRange(path, "hidden", router.hidden, 0, kMaxHidden));
  if ((router.hidden > 0) == router.hidden_weight.empty() ||
      (router.hidden == 0 && !router.hidden_bias.empty()))
    return Invalid(path, "hidden_weight must be named exactly when there is a hidden layer");
  if (router.hidden_activation == Activation::kClampedSwiglu)
    return NotRun(path + ".hidden_activation", "clamped_swiglu outside of experts");
  RETURN_IF_ERROR(
      CheckFloat(path, "input_scale", static_cast<double>(router.input_scale), -1e6, 1e6));
  RETURN_IF_ERROR(CheckGroups(path, router));
  RETURN_IF_ERROR(CheckPick(path, router));
  return CheckName(path, "weight", router.weight);
}

absl::Status CheckProjection(const std::string& path,
                             const ProjectionSpec& projection,
                             int64_t in,
                             int64_t out) {
  RETURN_IF_ERROR(CheckEqual(path, "in", projection.in, in));
  RETURN_IF_ERROR(CheckEqual(path, "out", projection.out, out));
  RETURN_IF_ERROR(CheckRange(path, "row_begin", projection.row_begin, 0, kMaxRowBegin));
  RETURN_IF_ERROR(CheckRuns(path, projection));
  RETURN_IF_ERROR(CheckName(path, "weight", projection.weight));
  if (projection.low_rank.has_value() || projection.scaling.has_value())
    return NotRun(path, "a soft-merged adapter here");
  if (projection.split_by_head && !projection.experts.has_value()) {
    return Invalid(path, "split_by_head needs experts");
  }
  return absl::OkStatus();
}

namespace {

absl::Status CheckSoftRouter(const std::string& path, const SoftRouterSpec& router) {
  RETURN_IF_ERROR(CheckRange(path, "num_experts", router.num_experts, 1, kMaxExperts));
  RETURN_IF_ERROR(CheckRange(path, "top_k", router.top_k, 0, router.num_experts));
  return CheckName(path, "weight", router.weight);
}

}  // namespace

ProjectionSpec WithoutAdapters(const ProjectionSpec& projection) {
  ProjectionSpec plain = projection;
  plain.low_rank.reset();
  plain.scaling.reset();
  return plain;
}

absl::Status CheckScaling(const std::string& path,
                          const std::optional<SoftScalingSpec>& scaling,
                          int32_t heads) {
  if (!scaling.has_value()) return absl::OkStatus();
  RETURN_IF_ERROR(CheckSoftRouter(path + ".router", scaling->router));
  RETURN_IF_ERROR(CheckEqual(path, "heads", scaling->heads, heads));
  return CheckName(path, "weight", scaling->weight);
}

absl::Status CheckAdapters(const std::string& path,
                           const ProjectionSpec& projection,
                           int32_t scaled_heads) {
  if (!projection.low_rank.has_value() && !projection.scaling.has_value()) return absl::OkStatus();
  if (projection.experts.has_value())
    return NotRun(path, "a soft-merged adapter of an expert projection");
  if (projection.scaling.has_value() && scaled_heads == 0)
    return NotRun(path + ".scaling", "scaling the outputs of this projection");
  RETURN_IF_ERROR(CheckScaling(path + ".scaling", projection.scaling, scaled_heads));
  if (!projection.low_rank.has_value()) return absl::OkStatus();
  const SoftLowRankSpec& low_rank = *projection.low_rank;
  const std::string at = path + ".low_rank";
  RETURN_IF_ERROR(CheckSoftRouter(at + ".router", low_rank.router));
  RETURN_IF_ERROR(CheckRange(at, "rank", low_rank.rank, 1, kMaxDim));
  RETURN_IF_ERROR(CheckRange(at, "num_experts * rank", low_rank.router.num_experts * low_rank.rank,
                             1, kMaxHidden));
  RETURN_IF_ERROR(CheckFloat(at, "scale", static_cast<double>(low_rank.scale), -1e6, 1e6));
  RETURN_IF_ERROR(CheckName(at, "down", low_rank.down));
  return CheckName(at, "up", low_rank.up);
}

absl::Status CheckDense(const std::string& path,
                        const ProjectionSpec& projection,
                        int64_t in,
                        int64_t out) {
  if (projection.experts.has_value()) return NotRun(path, "an expert projection here");
  return CheckProjection(path, projection, in, out);
}

}  // namespace sluice::spec_rules
