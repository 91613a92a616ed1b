// Loads a model on its own thread, so that listeners answer and signals work meanwhile. A loader
// that is abandoned leaves its thread to the end of the process.
#pragma once

#include <memory>
#include <optional>

#include "absl/status/statusor.h"
#include "engine/engine_config.h"
#include "engine/engine_thread.h"

namespace sluice::server {

class ModelLoader {
 public:
  // `progress` is called on the loader's thread and must outlive the process when the loader is
  // abandoned.
  ModelLoader(EngineConfig config, LoadProgress progress);

  // The result, once.
  std::optional<absl::StatusOr<LoadedModel>> TakeResult();

 private:
  struct Shared;
  const std::shared_ptr<Shared> shared_;  // with the thread, which may live longer
};

}  // namespace sluice::server
