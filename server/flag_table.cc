#include "server/flag_table.h"

#include <array>

namespace sluice::server {
namespace {

using enum FlagGroup;
using enum FlagKind;

constexpr double kMaxInt32 = 2147483647.0;
constexpr double kMaxBytes = 1ull << 50;

#define FLAG_TARGET(member) +[](ServerConfig& config) { return &config.member; }

const std::array kFlags = {
    FlagRow{"model", kModel, kOnAll, kText, "PATH", "model directory or .gguf file",
            FLAG_TARGET(engine.model_directory)},
    FlagRow{"served-model-name", kModel, kOnServe | kOnBenchServe, kText, "NAME",
            "name clients use; default: the directory's name, for bench serve the first listed",
            FLAG_TARGET(engine.served_model_name)},
    FlagRow{
        "weights", kModel, kOnEngine, kChoice, "auto|f32|bf16|int8|int4",
        "storage of weights; auto: as the file has them, int8 for a quantised GGUF; int8, int4: "
        "rounded while loading",
        FLAG_TARGET(weights)},
    FlagRow{"packed-cache", kModel, kOnEngine, kText, "DIR",
            "keep packed weights there: written by the first start, read by later ones",
            FLAG_TARGET(engine.packed_cache)},
    FlagRow{"require-manifest", kModel, kOnEngine, kSwitch, "",
            "refuse a model without manifest.json or with a wrong digest",
            FLAG_TARGET(engine.require_manifest)},
    FlagRow{"generation-config", kModel, kOnServe | kOnGenerate, kChoice, "auto|none",
            "auto: sampling defaults as in the model's generation_config.json; none: the APIs' own",
            FLAG_TARGET(engine.generation_config)},
    FlagRow{"max-context-tokens", kModel, kOnEngine, kInteger, "N",
            "longest prompt and output together; 0: the model's own",
            FLAG_TARGET(engine.max_context_tokens), 0, kMaxInt32},

    FlagRow{"host", kListeners, kOnServe, kText, "ADDRESS", "HTTP address",
            FLAG_TARGET(listeners.host)},
    FlagRow{"port", kListeners, kOnServe, kInteger, "N", "HTTP port; 0: any free one",
            FLAG_TARGET(listeners.port), 0, 65535},
    FlagRow{"grpc-host", kListeners, kOnServe, kText, "ADDRESS",
            "gRPC address; put a proxy before it on untrusted networks",
            FLAG_TARGET(listeners.grpc_host)},
    FlagRow{"grpc-port", kListeners, kOnServe, kInteger, "N", "gRPC port; 0: any free one; -1: off",
            FLAG_TARGET(listeners.grpc_port), -1, 65535},
    FlagRow{"metrics-host", kListeners, kOnServe, kText, "ADDRESS",
            "metrics address, no keys asked", FLAG_TARGET(listeners.metrics_host)},
    FlagRow{"metrics-port", kListeners, kOnServe, kInteger, "N",
            "metrics port; 0: any free one; -1: off", FLAG_TARGET(listeners.metrics_port), -1,
            65535},
    FlagRow{"max-connections", kListeners, kOnServe, kInteger, "N", "open HTTP connections",
            FLAG_TARGET(listeners.max_connections), 1, 1000000},
    FlagRow{"drain-timeout", kListeners, kOnServe, kSeconds, "SECONDS",
            "after SIGTERM, time for running streams to end", FLAG_TARGET(drain_timeout_seconds), 0,
            3600},

    FlagRow{"api-key-file", kSecurity, kOnServe, kText, "FILE",
            "lines id:sha256:models:tokens_per_minute; SIGHUP reads it again",
            FLAG_TARGET(security.api_key_file)},
    FlagRow{"allow-no-auth", kSecurity, kOnServe, kSwitch, "",
            "allow addresses other than loopback without a key file",
            FLAG_TARGET(security.allow_no_auth)},
    FlagRow{"tls-cert", kSecurity, kOnServe, kText, "FILE",
            "PEM certificate chain, for HTTP and gRPC", FLAG_TARGET(security.tls_cert)},
    FlagRow{"tls-key", kSecurity, kOnServe, kText, "FILE", "PEM private key",
            FLAG_TARGET(security.tls_key)},
    FlagRow{"tls-client-ca", kSecurity, kOnServe, kText, "FILE",
            "PEM authority that must have signed gRPC clients' certificates",
            FLAG_TARGET(security.tls_client_ca)},
    FlagRow{"cors-allow-origin", kSecurity, kOnServe, kText, "ORIGIN",
            "origin that browsers may call from; * for all; default: none",
            FLAG_TARGET(security.cors_allow_origin)},

    FlagRow{"kv-memory", kScheduling, kOnEngine, kBytes, "BYTES",
            "memory for keys and values; 0: a quarter of what is free",
            FLAG_TARGET(engine.kv_memory_bytes), 0, kMaxBytes},
    FlagRow{"max-batch-tokens", kScheduling, kOnScheduled, kInteger, "N",
            "rows of one step; 0: where the model's sparsest layer is bound by arithmetic",
            FLAG_TARGET(engine.max_batch_tokens), 0, 65536},
    FlagRow{"max-sequences", kScheduling, kOnScheduled, kInteger, "N", "sequences running at once",
            FLAG_TARGET(engine.max_sequences), 1, 4096},
    FlagRow{"max-step-ms", kScheduling, kOnScheduled, kNumber, "MS",
            "prefill chunks shrink to keep a step under it while others decode",
            FLAG_TARGET(engine.max_step_ms), 1, 60000},
    FlagRow{"max-queued-requests", kScheduling, kOnServe, kInteger, "N",
            "waiting requests before 429 is answered", FLAG_TARGET(engine.max_queued_requests), 1,
            1000000},
    FlagRow{"max-queued-tokens", kScheduling, kOnServe, kInteger, "N",
            "waiting prompt tokens before 429 is answered", FLAG_TARGET(engine.max_queued_tokens),
            1, 1e12},

    FlagRow{"draft-exit-layer", kScheduling, kOnScheduled, kInteger, "N",
            "the first N layers guess tokens ahead (self-speculation); 0: off",
            FLAG_TARGET(engine.draft_exit_layer), 0, 4096},
    FlagRow{"draft-tokens", kScheduling, kOnScheduled, kInteger, "N", "tokens guessed at a time",
            FLAG_TARGET(engine.draft_tokens), 1, 32},

    FlagRow{"device", kMachine, kOnEngine | kOnBenchMachine, kText, "cpu|cuda[:N]|reference",
            "where the model runs, or what bench machine measures; cuda in a build with it",
            FLAG_TARGET(engine.device)},
    FlagRow{"gpu-memory-fraction", kMachine, kOnEngine, kNumber, "SHARE",
            "of the GPU's memory that may be in use", FLAG_TARGET(engine.gpu_memory_fraction), 0.01,
            1},
    FlagRow{"threads", kMachine, kOnEngine | kOnBenchMachine, kInteger, "N",
            "compute threads; 0: one per core", FLAG_TARGET(engine.threads), 0, 1024},
    FlagRow{"isa", kMachine, kOnEngine, kChoice, "auto|scalar|avx2|avx512|amx",
            "highest instruction set to use", FLAG_TARGET(engine.isa)},
    FlagRow{"gemm", kMachine, kOnEngine, kChoice, "auto|onednn|amx-emulation",
            "matrix kernels; auto: our own; amx-emulation: slow, for tests",
            FLAG_TARGET(engine.gemm)},
    FlagRow{"prefetch-bytes", kMachine, kOnEngine, kText, "auto|BYTES",
            "how far ahead CPU kernels ask for weights, 0 to 65536; auto: measured while loading",
            FLAG_TARGET(prefetch_bytes)},

    FlagRow{"strict", kRequests, kOnServe, kSwitch, "", "unknown request fields are errors",
            FLAG_TARGET(requests.strict)},
    FlagRow{"allow-routing-trace", kRequests, kOnServe, kSwitch, "",
            "requests may ask for their tokens' routing (it can reveal text)",
            FLAG_TARGET(requests.allow_routing_trace)},

    FlagRow{"metrics-compat", kObservability, kOnServe, kChoice, "none|vllm",
            "also export metrics under another server's names",
            FLAG_TARGET(observability.metrics_compat)},
    FlagRow{"expert-metrics", kObservability, kOnServe, kChoice, "auto|full|off",
            "one series per expert; auto: up to 1,024 of them",
            FLAG_TARGET(observability.expert_metrics)},
    FlagRow{"log-format", kObservability, kOnAll, kChoice, "text|json", "form of log lines",
            FLAG_TARGET(observability.log_format)},
    FlagRow{"log-level", kObservability, kOnAll, kChoice, "debug|info|warning|error",
            "least level logged", FLAG_TARGET(observability.log_level)},

    FlagRow{"prompt", kGeneration, kOnGenerate, kText, "TEXT",
            "the prompt; -: read it from standard input", FLAG_TARGET(generate.prompt)},
    FlagRow{"chat", kGeneration, kOnGenerate, kSwitch, "",
            "send the prompt as a user's chat message", FLAG_TARGET(generate.chat)},
    FlagRow{"max-tokens", kGeneration, kOnGenerate, kInteger, "N", "tokens to generate",
            FLAG_TARGET(generate.max_tokens), 1, 1e6},
    FlagRow{"temperature", kGeneration, kOnGenerate | kOnBench, kNumber, "T",
            "0: greedy; -1: for generate the model's own if it has one, else greedy",
            FLAG_TARGET(generate.temperature), -1, 2},
    FlagRow{"seed", kGeneration, kOnGenerate | kOnBenchServe, kInteger, "N", "random seed",
            FLAG_TARGET(generate.seed), 0, 9e15},
    FlagRow{"routing-mode", kGeneration, kOnGenerate, kText, "MODE",
            "as `inspect` lists; default: the model's", FLAG_TARGET(generate.routing_mode)},
    FlagRow{"capacity", kGeneration, kOnGenerate, kNumber, "SHARE",
            "share of rows per routed layer; -1: as trained", FLAG_TARGET(generate.capacity), -1,
            1},
    FlagRow{"usage-json", kGeneration, kOnGenerate, kSwitch, "",
            "print the routing summary as JSON", FLAG_TARGET(generate.json)},

    FlagRow{"baseline", kBench, kOnBench, kText, "DIR",
            "a dense twin to compare with, in the same run", FLAG_TARGET(bench.baseline)},
    FlagRow{"baseline-weights", kBench, kOnBench | kOnBenchQuality, kChoice,
            "same|auto|f32|bf16|int8|int4",
            "weights of the baseline, without --baseline of the model itself; same: as --weights, "
            "for quality bf16",
            FLAG_TARGET(bench.baseline_weights)},
    FlagRow{"batch-sizes", kBench, kOnBench, kText, "LIST", "sequences decoded together",
            FLAG_TARGET(bench.batch_sizes)},
    FlagRow{"prompt-tokens", kBench, kOnBench | kOnBenchProfile | kOnBenchServe, kInteger, "N",
            "tokens per prompt", FLAG_TARGET(bench.prompt_tokens), 1, 1e6},
    FlagRow{"output-tokens", kBench, kOnBench | kOnBenchServe, kInteger, "N", "tokens per answer",
            FLAG_TARGET(bench.output_tokens), 2, 1e6},
    FlagRow{"rounds", kBench, kOnBench | kOnBenchProfile, kInteger, "N",
            "interleaved rounds, shown by their medians; bench profile: steps, by their mean",
            FLAG_TARGET(bench.rounds), 1, 1000},
    FlagRow{"text", kBench, kOnBenchQuality | kOnBenchServe, kText, "FILE",
            "UTF-8 text to predict; default: a short built-in one; bench serve: to cut prompts "
            "from; default: prompts are token ids",
            FLAG_TARGET(quality.text_file)},
    FlagRow{"tokens", kBench, kOnBenchQuality, kInteger, "N", "of the text at most",
            FLAG_TARGET(quality.tokens), 16, 1e8},
    FlagRow{"window", kBench, kOnBenchQuality, kInteger, "N",
            "tokens read at a time; 0: 256, or the context if that is less",
            FLAG_TARGET(quality.window), 0, 65536},
    FlagRow{"json-file", kBench, kOnBench | kOnBenchQuality, kText, "FILE",
            "write the results as JSON", FLAG_TARGET(bench.json_file)},
    FlagRow{"plot", kBench, kOnBench | kOnBenchServe, kText, "FILE",
            "write a plot as SVG: speeds beside the ideal; bench serve: latencies",
            FLAG_TARGET(bench.plot_file)},

    FlagRow{"batch", kBench, kOnBenchProfile, kInteger, "N", "sequences decoded together",
            FLAG_TARGET(profile.batch), 1, 4096},
    FlagRow{"context", kBench, kOnBenchProfile, kInteger, "N",
            "tokens of each sequence before the decode step", FLAG_TARGET(profile.context), 1, 1e6},

    FlagRow{"url", kBench, kOnBenchServe, kText, "URL",
            "server to measure, such as http://127.0.0.1:8080; OpenAI's /v1/completions",
            FLAG_TARGET(load.url)},
    FlagRow{"api-key", kBench, kOnBenchServe, kText, "KEY",
            "bearer token; SLUICE_API_KEY keeps it out of the process list",
            FLAG_TARGET(load.api_key)},
    FlagRow{"rate", kBench, kOnBenchServe, kNumber, "R",
            "open loop: Poisson arrivals, requests per second", FLAG_TARGET(load.rate), 0, 1e5},
    FlagRow{"concurrency", kBench, kOnBenchServe, kInteger, "N",
            "closed loop: clients, each with one request at a time", FLAG_TARGET(load.concurrency),
            0, 65536},
    FlagRow{"requests", kBench, kOnBenchServe, kInteger, "N", "requests measured",
            FLAG_TARGET(load.requests), 1, 1e6},
    FlagRow{"warmup-requests", kBench, kOnBenchServe, kInteger, "N",
            "requests before those, not counted", FLAG_TARGET(load.warmup_requests), 0, 1e6},
    FlagRow{"vocab-size", kBench, kOnBenchServe, kInteger, "N", "prompts take token ids below it",
            FLAG_TARGET(load.vocab_size), 2, kMaxInt32},
    FlagRow{"slo-ttft-ms", kBench, kOnBenchServe, kNumber, "MS",
            "goodput counts requests whose first token came within it",
            FLAG_TARGET(load.slo_ttft_ms), 0, 1e9},
    FlagRow{"slo-itl-ms", kBench, kOnBenchServe, kNumber, "MS",
            "and 99 % of whose gaps between chunks are within it", FLAG_TARGET(load.slo_itl_ms), 0,
            1e9},
    FlagRow{"timeout", kBench, kOnBenchServe, kSeconds, "SECONDS",
            "longest wait for the next event of an answer", FLAG_TARGET(load.timeout_seconds),
            0.001, 86400},

    FlagRow{"json", kOther, kOnInspect | kOnBenchMachine | kOnBenchProfile | kOnBenchServe, kSwitch,
            "", "print everything as JSON", FLAG_TARGET(print_json)},
};

#undef FLAG_TARGET

}  // namespace

std::span<const FlagRow> FlagTable() { return kFlags; }

const char* Name(FlagGroup group) {
  static constexpr std::array<const char*, kNumFlagGroups> kNames = {
      "Model",    "Listeners",     "Security",   "Scheduling", "Machine",
      "Requests", "Observability", "Generation", "Benchmark",  "Other"};
  return kNames[static_cast<size_t>(group)];
}

}  // namespace sluice::server
