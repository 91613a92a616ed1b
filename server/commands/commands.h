// The subcommands of the binary. Each takes the parsed configuration and returns the process's exit
// code. They print to standard output and error; nothing here exits.
#pragma once

#include "server/server_config.h"

namespace sluice::server {

struct CommandResult {
  int exit_code = kExitOk;
  // A thread (model loading) still runs and is abandoned: end without destructors.
  bool abandons_threads = false;
};

CommandResult RunServe(const ServerConfig& config);
int RunGenerate(const ServerConfig& config);
int RunInspect(const ServerConfig& config);
int RunBench(const ServerConfig& config);
int RunBenchMachine(const ServerConfig& config);
int RunBenchProfile(const ServerConfig& config);
int RunBenchQuality(const ServerConfig& config);
int RunBenchServe(const ServerConfig& config);
int RunVersion();

// kExitBadModel for what is wrong with the model directory, kExitUsage for what is wrong with that
// of --packed-cache and for flags that ask for what is not there (--isa,
// --gemm, more sequences than fit), else kExitInternal.
int ExitCodeOfLoadError(const absl::Status& status);

}  // namespace sluice::server
