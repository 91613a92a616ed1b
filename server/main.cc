// The binary: parse flags, run one subcommand, end with its code.
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <string>
#include <vector>

#include "engine/log.h"
#include "server/commands/commands.h"
#include "server/server_config.h"
#ifdef SLUICE_WITH_CUDA
#include "kernels/cuda/use_cuda.h"
#endif

namespace sluice::server {
namespace {

CommandResult Run(const ServerConfig& config) {
  switch (config.command) {
    case Command::kServe:
      return RunServe(config);
    case Command::kGenerate:
      return {.exit_code = RunGenerate(config)};
    case Command::kBench:
      return {.exit_code = RunBench(config)};
    case Command::kBenchMachine:
      return {.exit_code = RunBenchMachine(config)};
    case Command::kBenchProfile:
      return {.exit_code = RunBenchProfile(config)};
    case Command::kBenchQuality:
      return {.exit_code = RunBenchQuality(config)};
    case Command::kBenchServe:
      return {.exit_code = RunBenchServe(config)};
    case Command::kInspect:
      return {.exit_code = RunInspect(config)};
    case Command::kVersion:
      return {.exit_code = RunVersion()};
    case Command::kNone:
      break;
  }
  return {.exit_code = kExitUsage};
}

CommandResult Main(const std::vector<std::string>& arguments) {
#ifdef SLUICE_WITH_CUDA
  kernels::cuda::UseCuda();
#endif
  const absl::StatusOr<ServerConfig> config = ParseServerConfig(arguments, ReadEnvironment);
  if (!config.ok()) {
    const std::string message(config.status().message());
    std::fprintf(stderr, "sluice: %s\n`sluice --help` lists commands and flags.\n",
                 message.c_str());
    return {.exit_code = kExitUsage};
  }
  if (config->help) {
    std::fputs(HelpText(config->command).c_str(), stdout);
    return {.exit_code = kExitOk};
  }
  return Run(*config);
}

}  // namespace
}  // namespace sluice::server

int main(int argc, char** argv) {
  sluice::server::CommandResult result;
  try {
    result = sluice::server::Main({argv + 1, argv + argc});
  } catch (const std::exception& error) {
    // Ours do not throw; this is memory running out, or a library.
    std::fprintf(stderr, "sluice: internal error: %s\n", error.what());
    result = {.exit_code = sluice::server::kExitInternal, .abandons_threads = true};
  }
  sluice::FlushLog();
  std::fflush(nullptr);
  if (result.abandons_threads) std::_Exit(result.exit_code);
  return result.exit_code;
}
