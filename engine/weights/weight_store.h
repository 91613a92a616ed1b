// Names to ranges of opened weight files. Everything in a file's header is checked against the real
// file size before any allocation (rules: reliability.md 2.2); values are read with pread straight
// to their destination, never through a map that a truncated file would turn into SIGBUS. Not for
// packing.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/dtype.h"

namespace sluice {

struct TensorRange {
  kernels::DType dtype = kernels::DType::kF32;
  std::vector<int64_t> shape;
  int64_t bytes = 0;
  int32_t file = 0;
  int64_t offset = 0;

  int64_t num_elements() const {
    int64_t count = 1;
    for (const int64_t size : shape) count *= size;
    return count;
  }
};

class WeightStore {
 public:
  virtual ~WeightStore() = default;

  // Opens `model.safetensors`, or the shards named by `model.safetensors.index.json`, of a
  // directory. NotFound when there is none; InvalidArgument for any malformed file, naming file and
  // rule.
  static absl::StatusOr<std::unique_ptr<WeightStore>> Open(const std::string& model_directory);

  virtual bool Contains(std::string_view name) const = 0;
  // NotFound naming the tensor.
  virtual absl::StatusOr<TensorRange> Find(std::string_view name) const = 0;
  // Reads elements [first, first + count) of a tensor, raw. `into` has exactly count *
  // SizeOf(dtype) bytes and the alignment of such elements. DataLoss when the file became shorter
  // since it was opened. Threads may read at the same time.
  virtual absl::Status Read(std::string_view name, int64_t first, std::span<std::byte> into) = 0;
  // Names never passed to Read, for the "nothing left over" check.
  virtual std::vector<std::string> Unused() const = 0;
  virtual int64_t total_bytes() const = 0;
  // Most of the elements lie in the file as blocks of 8 bits or fewer a value, and are read as f32.
  virtual bool quantized() const { return false; }
  // What tells these weights from others: the files (file_fingerprint.h) and which tensor lies
  // where. Unimplemented for stores without files.
  virtual absl::StatusOr<std::string> Fingerprint() const {
    return absl::UnimplementedError("weights that are not files have no fingerprint");
  }
};

}  // namespace sluice
