// Any bytes as config.json, on weights whose names and shapes are also drawn from the input.
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "engine/architectures/architectures.h"
#include "engine/json_reader.h"
#include "kernels/check.h"

namespace sluice {
namespace {

// Has a tensor or not, by a hash of its name and the input.
class DrawnStore : public WeightStore {
 public:
  explicit DrawnStore(uint32_t seed) : seed_(seed) {}

  bool Contains(std::string_view name) const override { return Hash(name) % 2 == 0; }
  absl::StatusOr<TensorRange> Find(std::string_view name) const override {
    if (!Contains(name)) return absl::NotFoundError("missing");
    TensorRange range;
    range.shape = {Hash(name) % 65, 32};
    return range;
  }
  absl::Status Read(std::string_view, int64_t, std::span<std::byte>) override {
    return absl::UnimplementedError("no values");
  }
  std::vector<std::string> Unused() const override { return {}; }
  int64_t total_bytes() const override { return 0; }

 private:
  uint32_t Hash(std::string_view name) const {
    uint32_t hash = seed_;
    for (const char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 16777619u;
    return hash >> 8;
  }
  uint32_t seed_;
};

}  // namespace
}  // namespace sluice

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto config = sluice::ParseJson(text, {.max_depth = 16, .max_nodes = 20'000});
  if (!config.ok()) return 0;
  const sluice::DrawnStore weights(static_cast<uint32_t>(size) * 2654435761u);
  const auto spec = sluice::SpecFromConfig(*config, weights);
  if (spec.ok()) SLUICE_CHECK(sluice::ValidateSpec(*spec).ok());
  return 0;
}
