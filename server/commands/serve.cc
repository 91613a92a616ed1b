#include "server/commands/commands.h"
#include "server/commands/serve_process.h"
#include "server/commands/signal_queue.h"

namespace sluice::server {

CommandResult RunServe(const ServerConfig& config) {
  BlockSignals();  // before the log's thread, which is the first one
  // Owned by hand, because an abandoned loading thread may still use parts of it.
  auto process = std::make_unique<ServeProcess>(config);
  const CommandResult result = process->Run();
  if (result.abandons_threads) static_cast<void>(process.release());
  return result;
}

}  // namespace sluice::server
