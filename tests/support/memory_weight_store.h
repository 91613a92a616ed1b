// A WeightStore in memory, for models made by tests. Values are f32, or bf16 when asked for.
#pragma once

#include <atomic>
#include <cstring>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "engine/weights/weight_store.h"

namespace sluice {

class MemoryWeightStore final : public WeightStore {
 public:
  void Add(const std::string& name,
           std::vector<int64_t> shape,
           const std::vector<float>& values,
           kernels::DType dtype = kernels::DType::kF32) {
    Tensor tensor;
    tensor.range.dtype = dtype;
    tensor.range.shape = std::move(shape);
    tensor.bytes.resize(values.size() * static_cast<size_t>(kernels::SizeOf(dtype)));
    for (size_t i = 0; i < values.size(); ++i) {
      if (dtype == kernels::DType::kF32) {
        std::memcpy(tensor.bytes.data() + 4 * i, &values[i], 4);
      } else {
        const kernels::BF16 rounded = kernels::ToBF16(values[i]);
        std::memcpy(tensor.bytes.data() + 2 * i, &rounded, 2);
      }
    }
    tensor.range.bytes = static_cast<int64_t>(tensor.bytes.size());
    total_bytes_ += tensor.range.bytes;
    tensors_[name] = std::move(tensor);
  }

  bool Contains(std::string_view name) const override {
    return tensors_.find(name) != tensors_.end();
  }
  absl::StatusOr<TensorRange> Find(std::string_view name) const override {
    const auto it = tensors_.find(name);
    if (it == tensors_.end()) return NoTensor(name);
    return it->second.range;
  }
  absl::Status Read(std::string_view name, int64_t first, std::span<std::byte> into) override {
    const auto it = tensors_.find(name);
    if (it == tensors_.end()) return NoTensor(name);
    std::atomic_ref(it->second.read).store(true, std::memory_order_relaxed);
    const auto begin = static_cast<size_t>(first * kernels::SizeOf(it->second.range.dtype));
    std::memcpy(into.data(), it->second.bytes.data() + begin, into.size());
    return absl::OkStatus();
  }
  std::vector<std::string> Unused() const override {
    std::vector<std::string> names;
    for (const auto& [name, tensor] : tensors_) {
      if (!tensor.read) names.push_back(name);
    }
    return names;
  }
  int64_t total_bytes() const override { return total_bytes_; }

 private:
  struct Tensor {
    TensorRange range;
    std::vector<std::byte> bytes;
    bool read = false;
  };
  static absl::Status NoTensor(std::string_view name) {
    return absl::NotFoundError(absl::StrCat("no tensor '", std::string(name), "'"));
  }

  std::map<std::string, Tensor, std::less<>> tensors_;
  int64_t total_bytes_ = 0;
};

}  // namespace sluice
