// One row per flag: name, group, commands, value, help, range. The parser, the help text and the
// tests all read this table. Not for parsing itself (server/server_config.cc).
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <variant>

#include "absl/status/status.h"
#include "server/server_config.h"

namespace sluice::server {

enum class FlagGroup : uint8_t {
  kModel,
  kListeners,
  kSecurity,
  kScheduling,
  kMachine,
  kRequests,
  kObservability,
  kGeneration,
  kBench,
  kOther,
};
inline constexpr int kNumFlagGroups = 10;
const char* Name(FlagGroup group);

// Bits of FlagRow::commands.
inline constexpr uint8_t kOnServe = 1, kOnGenerate = 2, kOnBench = 4, kOnInspect = 8;
inline constexpr uint8_t kOnBenchMachine = 16, kOnBenchProfile = 32, kOnBenchQuality = 64;
inline constexpr uint8_t kOnBenchServe = 128;
inline constexpr uint8_t kOnEngine =
    kOnServe | kOnGenerate | kOnBench | kOnBenchProfile | kOnBenchQuality;
// Commands that schedule steps themselves; the others decide what a step is.
inline constexpr uint8_t kOnScheduled = kOnServe | kOnGenerate | kOnBench;
inline constexpr uint8_t kOnAll = kOnEngine | kOnInspect;

// How a value is written. kBytes takes K, M, G, KiB, MiB, GiB; kSeconds takes "25", "25s", "500ms",
// "2m".
enum class FlagKind : uint8_t { kText, kSwitch, kInteger, kBytes, kNumber, kSeconds, kChoice };

using FlagTarget = std::variant<std::string* (*)(ServerConfig&),
                                bool* (*)(ServerConfig&),
                                int32_t* (*)(ServerConfig&),
                                int64_t* (*)(ServerConfig&),
                                double* (*)(ServerConfig&)>;

struct FlagRow {
  std::string_view name;
  FlagGroup group;
  uint8_t commands;
  FlagKind kind;
  std::string_view hint;  // what stands after `=` in the help; for kChoice the choices, `|` between
  std::string_view help;
  FlagTarget target;
  double lo = 0.0;
  double hi = 0.0;
};

std::span<const FlagRow> FlagTable();

// Parses `value` and stores it. InvalidArgument says what is expected.
absl::Status SetFlag(const FlagRow& row, std::string_view value, ServerConfig& config);

// The value in `config`, as text for the help.
std::string FlagValue(const FlagRow& row, ServerConfig& config);

// The environment variable: "kv-memory" -> "SLUICE_KV_MEMORY".
std::string EnvironmentName(std::string_view flag);

}  // namespace sluice::server
