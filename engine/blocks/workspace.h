// A stack arena for the temporaries of one step, sized when the model is built: Forward allocates
// nothing. Matrices lie in memory of the device, lists in that of the host, which is the same on a
// CPU. Engine thread only.
#pragma once

#include <cstdint>
#include <utility>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "kernels/check.h"
#include "kernels/host_memory.h"
#include "kernels/tensor_view.h"

namespace sluice {

class Workspace {
 public:
  static absl::StatusOr<Workspace> Create(kernels::Backend& backend, int64_t bytes) {
    auto buffer = backend.Allocate(static_cast<size_t>(bytes));
    if (!buffer.ok()) return buffer.status();
    Workspace workspace(*std::move(buffer));
    if (!backend.memory_is_host()) {  // of the same size; what is never used is never there
      auto lists = kernels::AllocateHost(static_cast<size_t>(bytes));
      if (!lists.ok()) return lists.status();
      workspace.lists_ = *std::move(lists);
    }
    return workspace;
  }

  // Room that Take needs for `count` elements.
  static int64_t BytesFor(int64_t count, int64_t element_bytes = 4) {
    return (count * element_bytes + kAlignment - 1) / kAlignment * kAlignment;
  }

  // A list, in memory of the host.
  template <typename T>
  T* Take(int64_t count) {
    const bool apart = lists_.data() != nullptr;
    return reinterpret_cast<T*>((apart ? static_cast<char*>(lists_.data()) : data()) +
                                Advance(BytesFor(count, sizeof(T))));
  }
  kernels::TensorView TakeMatrix(int64_t rows, int64_t cols) {
    return kernels::MatrixView(TakeDevice(rows * cols * int64_t{sizeof(float)}), rows, cols);
  }
  // Memory of the device, in bytes.
  void* TakeDevice(int64_t bytes) { return data() + Advance(BytesFor(bytes, 1)); }

  // Gives back everything taken after its construction.
  class Scope {
   public:
    explicit Scope(Workspace& workspace) : workspace_(workspace), mark_(workspace.used_) {}
    ~Scope() { workspace_.used_ = mark_; }
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    Workspace& workspace_;
    int64_t mark_;
  };

  int64_t bytes() const { return static_cast<int64_t>(buffer_.bytes()); }

 private:
  static constexpr int64_t kAlignment = 64;
  explicit Workspace(kernels::Buffer buffer) : buffer_(std::move(buffer)) {}

  char* data() const { return static_cast<char*>(buffer_.data()); }
  // The offset of the next `bytes`, in both memories.
  int64_t Advance(int64_t bytes) {
    SLUICE_CHECK(used_ + bytes <= static_cast<int64_t>(buffer_.bytes()))
        << "workspace: " << used_ << " + " << bytes << " of " << buffer_.bytes();
    const int64_t at = used_;
    used_ += bytes;
    return at;
  }

  kernels::Buffer buffer_;
  kernels::Buffer lists_;  // where the host cannot use the device's memory
  int64_t used_ = 0;
};

}  // namespace sluice
