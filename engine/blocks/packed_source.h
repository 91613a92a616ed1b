// Where packed weights come from: a packed cache that fits, or whoever packs them now, in which
// case they may go into a new cache. Load time only; needs a backend whose memory the host sees.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "engine/weights/packed_cache.h"
#include "kernels/backend.h"

namespace sluice {

// At most one of them; neither: every weight is packed.
struct PackedCacheFiles {
  const PackedCacheReader* reader = nullptr;
  PackedCacheWriter* writer = nullptr;
};

struct MatrixShape {
  int64_t n = 0;
  int64_t k = 0;
  kernels::WeightFormat format = kernels::WeightFormat::kF32;
};

class PackedSource {
 public:
  // `on_read` is told the bytes of everything that comes from a cache.
  PackedSource(kernels::Backend& backend,
               PackedCacheFiles files,
               std::function<void(int64_t bytes)> on_read);

  // The matrix that `make` gives, or the one that was written when it had been made. `key` says
  // all that decides its values beside the weight files. Errors of `make`, DataLoss of a damaged
  // cache.
  absl::StatusOr<kernels::PackedMatrix> Matrix(
      const std::string& key,
      const MatrixShape& shape,
      absl::FunctionRef<absl::StatusOr<kernels::PackedMatrix>()> make);
  // Fills allocated experts in the same way.
  absl::Status Fill(const std::string& key,
                    kernels::PackedExperts& experts,
                    absl::FunctionRef<absl::Status()> fill);

 private:
  absl::Status Read(const std::string& key, const void* data, int64_t bytes);
  void Write(const std::string& key, const void* data, int64_t bytes);

  kernels::Backend& backend_;
  const PackedCacheFiles files_;
  const std::function<void(int64_t)> on_read_;
};

}  // namespace sluice
