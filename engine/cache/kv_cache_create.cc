// How the memory of a KvCache is divided, and its tables made.
#include <algorithm>
#include <cstring>
#include <limits>
#include <utility>

#include "engine/cache/kv_cache.h"
#include "engine/status_macros.h"
#include "kernels/check.h"

namespace sluice {
namespace {

struct PoolShape {
  kernels::KvGeometry geometry;
  int64_t page_bytes = 0;
  int64_t layers = 0;  // pages that one block of one sequence takes
  double bytes_per_token = 0.0;
};

std::vector<PoolShape> PoolShapes(const kernels::Backend& backend,
                                  const std::vector<KvClassSpec>& classes) {
  std::vector<PoolShape> shapes;
  for (const KvClassSpec& kv_class : classes) {
    auto found = std::find_if(shapes.begin(), shapes.end(), [&](const PoolShape& shape) {
      return shape.geometry == kv_class.geometry;
    });
    if (found == shapes.end()) {
      const int64_t page_bytes = backend.KvPageBytes(kv_class.geometry);
      found = shapes.insert(shapes.end(), {kv_class.geometry, page_bytes, 0, 0.0});
    }
    found->layers += kv_class.num_layers;
    found->bytes_per_token =
        static_cast<double>(found->page_bytes * found->layers) / found->geometry.page_tokens;
  }
  return shapes;
}

absl::Status CheckArguments(const std::vector<KvClassSpec>& classes,
                            const KvCache::Options& options) {
  if (classes.empty()) return absl::InvalidArgumentError("a KV cache needs a class");
  for (const KvClassSpec& kv_class : classes) {
    if (kv_class.num_layers <= 0 || kv_class.geometry.page_tokens <= 0) {
      return absl::InvalidArgumentError("a KV class needs layers and a page size");
    }
  }
  if (options.max_sequences <= 0 || options.max_tokens <= 0) {
    return absl::InvalidArgumentError("a KV cache needs room for one sequence and one token");
  }
  return absl::OkStatus();
}

}  // namespace

int64_t KvBytesPerToken(const kernels::Backend& backend, const std::vector<KvClassSpec>& classes) {
  int64_t total = 0;
  for (const KvClassSpec& kv_class : classes) {
    const int64_t tokens = kv_class.geometry.page_tokens;
    total += (backend.KvPageBytes(kv_class.geometry) * kv_class.num_layers + tokens - 1) / tokens;
  }
  return total;
}

absl::StatusOr<std::unique_ptr<KvCache>> KvCache::Create(kernels::Backend& backend,
                                                         std::vector<KvClassSpec> classes,
                                                         const Options& options) {
  RETURN_IF_ERROR(CheckArguments(classes, options));
  // The constructor is private.
  std::unique_ptr<KvCache> cache(new KvCache(std::move(classes), options));
  RETURN_IF_ERROR(cache->CreatePools(backend));
  cache->CreateTables();
  return cache;
}

KvCache::KvCache(std::vector<KvClassSpec> classes, const Options& options)
    : classes_(std::move(classes)), options_(options) {}

// Memory is split in proportion to the worst-case bytes per token, so that all pools run out
// together. More pages than every sequence at full length can hold are never taken.
absl::Status KvCache::CreatePools(kernels::Backend& backend) {
  const std::vector<PoolShape> shapes = PoolShapes(backend, classes_);
  double bytes_per_token = 0.0;
  for (const PoolShape& shape : shapes) bytes_per_token += shape.bytes_per_token;
  for (const PoolShape& shape : shapes) {
    const double share = shape.bytes_per_token / bytes_per_token;
    const auto bytes =
        shapes.size() == 1
            ? options_.memory_bytes
            : static_cast<int64_t>(share * static_cast<double>(options_.memory_bytes));
    const int64_t page_tokens = shape.geometry.page_tokens;
    const int64_t blocks = (options_.max_tokens + page_tokens - 1) / page_tokens;
    const int64_t num_pages =
        std::min({bytes / shape.page_bytes, blocks * shape.layers * options_.max_sequences,
                  int64_t{std::numeric_limits<int32_t>::max()}});
    if (num_pages < shape.layers) {
      return absl::InvalidArgumentError("KV memory is too small for one page of every layer");
    }
    const auto pool_bytes = static_cast<size_t>(num_pages * shape.page_bytes);
    ASSIGN_OR_RETURN(kernels::Buffer memory, backend.Allocate(pool_bytes));
    if (options_.poison_freed_pages) std::memset(memory.data(), 0xFF, pool_bytes);
    pools_.push_back({shape.geometry, shape.page_bytes, PagePool(static_cast<int32_t>(num_pages)),
                      std::move(memory)});
  }
  return absl::OkStatus();
}

void KvCache::CreateTables() {
  const auto sequences = static_cast<size_t>(options_.max_sequences);
  for (const KvClassSpec& kv_class : classes_) {
    ClassState state;
    while (pools_[state.pool].geometry != kv_class.geometry) ++state.pool;
    const int32_t page_tokens = kv_class.geometry.page_tokens;
    state.max_blocks = (options_.max_tokens + page_tokens - 1) / page_tokens;
    const auto blocks = static_cast<size_t>(state.max_blocks);
    state.page_table.assign(sequences * blocks * static_cast<size_t>(kv_class.num_layers), kNoPage);
    if (kv_class.routed) {
      state.positions.assign(sequences * static_cast<size_t>(options_.max_tokens), 0);
    }
    states_.push_back(std::move(state));
  }
  extents_.resize(sequences * classes_.size());
  rows_of_class_.assign(classes_.size(), 0);
  longest_.assign(sequences, 0);
  open_.assign(sequences, false);
  free_sequences_.reserve(sequences);
  for (int32_t s = options_.max_sequences - 1; s >= 0; --s) free_sequences_.push_back(s);
}

}  // namespace sluice
