#include "server/commands/model_loader.h"

#include <thread>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace sluice::server {

struct ModelLoader::Shared {
  absl::Mutex mutex;
  std::optional<absl::StatusOr<LoadedModel>> result ABSL_GUARDED_BY(mutex);
};

ModelLoader::ModelLoader(EngineConfig config, LoadProgress progress)
    : shared_(std::make_shared<Shared>()) {
  // Detached: loading cannot be interrupted, and a signal must end the process at once.
  std::thread([shared = shared_, config = std::move(config), progress = std::move(progress)] {
    absl::StatusOr<LoadedModel> model = LoadModel(config, progress);
    const absl::MutexLock lock(&shared->mutex);
    shared->result = std::move(model);
  }).detach();
}

std::optional<absl::StatusOr<LoadedModel>> ModelLoader::TakeResult() {
  const absl::MutexLock lock(&shared_->mutex);
  return std::exchange(shared_->result, std::nullopt);
}

}  // namespace sluice::server
