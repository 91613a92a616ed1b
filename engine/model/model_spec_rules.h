// What the rules of ValidateSpec are written with: limits, checks of one number or name, and of the
// parts that several blocks have. Each returns InvalidArgument (NotRun: Unimplemented) naming path
// and field. Only for engine/model/model_spec_*.cc.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "engine/model/model_spec.h"
#include "engine/model/sparse_limits.h"

namespace sluice::spec_rules {

// Far above any published model, far below what could overflow a product of three in 64 bits.
inline constexpr int64_t kMaxDim = 65'536;
inline constexpr int64_t kMaxHidden = int64_t{1} << 20;
inline constexpr int64_t kMaxHeads = 4'096;
inline constexpr int64_t kMaxExperts = 4'096;
inline constexpr int64_t kMaxLayers = 4'096;
inline constexpr int64_t kMaxVocab = int64_t{1} << 21;
inline constexpr int64_t kMaxPositions = int64_t{1} << 24;
inline constexpr int64_t kMaxRowBegin = int64_t{1} << 32;
inline constexpr int64_t kMaxSeed = int64_t{1} << 47;

absl::Status Invalid(const std::string& path, const std::string& what);
absl::Status NotRun(const std::string& path, const std::string& what);
absl::Status CheckRange(
    const std::string& path, const char* field, int64_t value, int64_t lo, int64_t hi);
absl::Status CheckEqual(const std::string& path,
                        const char* field,
                        int64_t value,
                        int64_t expected);
absl::Status CheckFloat(
    const std::string& path, const char* field, double value, double lo, double hi);
absl::Status CheckName(const std::string& path, const char* field, const std::string& name);
absl::Status CheckNorm(const std::string& path, const std::optional<NormSpec>& norm);
absl::Status CheckRouter(const std::string& path, const RouterSpec& router);
// The same for experts that may choose rows or refuse them.
absl::Status CheckFfnRouter(const std::string& path, const RouterSpec& router);
absl::Status CheckProjection(const std::string& path,
                             const ProjectionSpec& projection,
                             int64_t in,
                             int64_t out);
absl::Status CheckDense(const std::string& path,
                        const ProjectionSpec& projection,
                        int64_t in,
                        int64_t out);
// What CheckProjection and CheckDense refuse: the adapters of a projection whose place runs them.
// `scaled_heads`: heads of its outputs where these may be scaled, or 0.
ProjectionSpec WithoutAdapters(const ProjectionSpec& projection);
absl::Status CheckAdapters(const std::string& path,
                           const ProjectionSpec& projection,
                           int32_t scaled_heads);
absl::Status CheckScaling(const std::string& path,
                          const std::optional<SoftScalingSpec>& scaling,
                          int32_t heads);
// What an encoder runs, and that nothing else has an encoder's parts (model_spec_encoder.cc).
absl::Status CheckRole(const ModelSpec& spec);
// A sublayer: its norms and its block (model_spec_blocks.cc).
absl::Status CheckSublayer(const std::string& path, const SublayerSpec& sublayer, int64_t dim);

}  // namespace sluice::spec_rules
