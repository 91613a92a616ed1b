// What the operator asked for: flags, environment and flag file in one struct. The only place that
// reads them. Precedence: flag > SLUICE_<NAME> > --flagfile > default. Not for limits of requests
// (server/request_validation.h) or of the engine's arithmetic.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "engine/engine_config.h"

namespace sluice::server {

enum class Command : uint8_t {
  kNone,
  kServe,
  kGenerate,
  kBench,
  kBenchMachine,
  kBenchProfile,
  kBenchQuality,
  kBenchServe,
  kInspect,
  kVersion
};

// Process exit codes (sysexits where one fits).
inline constexpr int kExitOk = 0;
inline constexpr int kExitUsage = 64;
inline constexpr int kExitBadModel = 65;
inline constexpr int kExitPortInUse = 69;
inline constexpr int kExitUnavailable = 69;  // the server to measure
inline constexpr int kExitInternal = 70;
inline constexpr int kExitDeviceLost = 71;

struct ListenerConfig {
  std::string host = "127.0.0.1";
  int32_t port = 8080;
  std::string grpc_host = "127.0.0.1";
  int32_t grpc_port = 8081;
  std::string metrics_host = "127.0.0.1";
  int32_t metrics_port = 9100;
  int32_t max_connections = 4096;
};

struct SecurityConfig {
  std::string api_key_file;
  bool allow_no_auth = false;
  std::string tls_cert;
  std::string tls_key;
  std::string tls_client_ca;  // clients must show a certificate signed by it
  std::string cors_allow_origin;
};

struct RequestPolicyConfig {
  bool strict = false;  // unknown request fields are errors
  bool allow_routing_trace = false;
};

struct ObservabilityConfig {
  std::string metrics_compat = "none";  // "vllm"
  std::string expert_metrics = "auto";  // "full", "off"
  std::string log_format = "text";      // "json"
  std::string log_level = "info";
};

// `sluice generate`.
struct GenerateConfig {
  std::string prompt;
  bool chat = false;
  int32_t max_tokens = 64;
  double temperature = -1.0;  // negative: the model's own, or greedy
  int64_t seed = 0;
  std::string routing_mode;
  double capacity = -1.0;  // negative: the model's own
  bool json = false;
};

// `sluice bench`.
struct BenchConfig {
  std::string baseline;  // empty: only the same weights forced dense
  std::string baseline_weights = "same";
  std::string batch_sizes = "1,8,32";
  int32_t prompt_tokens = 128;
  int32_t output_tokens = 64;
  int32_t rounds = 5;
  std::string json_file;
  std::string plot_file;  // bench and bench serve
};

// `sluice bench profile`, which also reads the prompt tokens and rounds of BenchConfig.
struct ProfileConfig {
  int32_t batch = 1;
  int32_t context = 128;  // tokens in the cache when the step begins
};

// `sluice bench quality`.
struct QualityConfig {
  std::string text_file;  // empty: the built-in text
  int32_t tokens = 4096;
  int32_t window = 0;
};

// `sluice bench serve`, which also reads the prompt and output tokens and the plot of BenchConfig,
// the text of QualityConfig, the seed of GenerateConfig and the served model's name.
struct LoadConfig {
  std::string url;
  std::string api_key;
  double rate = 0.0;        // 0: a closed loop
  int32_t concurrency = 0;  // 0: an open loop
  int32_t requests = 100;
  int32_t warmup_requests = 4;
  int32_t vocab_size = 1000;
  double slo_ttft_ms = 2000.0;
  double slo_itl_ms = 200.0;
  double timeout_seconds = 120.0;
};

struct ServerConfig {
  Command command = Command::kNone;
  bool help = false;
  EngineConfig engine;
  std::string weights = "auto";         // text of engine.weights
  std::string prefetch_bytes = "auto";  // text of engine.prefetch_bytes
  ListenerConfig listeners;
  SecurityConfig security;
  RequestPolicyConfig requests;
  ObservabilityConfig observability;
  double drain_timeout_seconds = 25.0;
  GenerateConfig generate;
  BenchConfig bench;
  ProfileConfig profile;
  QualityConfig quality;
  LoadConfig load;
  bool print_json = false;  // instead of text
};

using Environment = std::function<std::optional<std::string>(const std::string& name)>;

// `arguments` without the program's name. InvalidArgument with a message for the operator: unknown
// command or flag (with the nearest name), bad value (with the range), unsafe combination.
absl::StatusOr<ServerConfig> ParseServerConfig(const std::vector<std::string>& arguments,
                                               const Environment& environment);

// Of a choice of --weights; none for auto.
std::optional<kernels::WeightFormat> WeightFormatOf(const std::string& choice);

// Grouped flags of one command; kNone: the list of commands.
std::string HelpText(Command command);

// The process's own environment.
std::optional<std::string> ReadEnvironment(const std::string& name);

// True for 127.0.0.0/8, ::1 and localhost.
bool IsLoopbackHost(const std::string& host);

}  // namespace sluice::server
