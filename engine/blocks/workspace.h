// A stack arena for the temporaries of one step, sized when the model is built: Forward allocates
// nothing. Engine thread only.
#pragma once

#include <cstdint>
#include <utility>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "kernels/check.h"
#include "kernels/tensor_view.h"

namespace sluice {

class Workspace {
 public:
  static absl::StatusOr<Workspace> Create(kernels::Backend& backend, int64_t bytes) {
    auto buffer = backend.Allocate(static_cast<size_t>(bytes));
    if (!buffer.ok()) return buffer.status();
    return Workspace(*std::move(buffer));
  }

  // Room that Take needs for `count` elements.
  static int64_t BytesFor(int64_t count, int64_t element_bytes = 4) {
    return (count * element_bytes + kAlignment - 1) / kAlignment * kAlignment;
  }

  template <typename T>
  T* Take(int64_t count) {
    const int64_t bytes = BytesFor(count, sizeof(T));
    SLUICE_CHECK(used_ + bytes <= static_cast<int64_t>(buffer_.bytes()))
        << "workspace: " << used_ << " + " << bytes << " of " << buffer_.bytes();
    T* data = reinterpret_cast<T*>(static_cast<char*>(buffer_.data()) + used_);
    used_ += bytes;
    return data;
  }
  kernels::TensorView TakeMatrix(int64_t rows, int64_t cols) {
    return kernels::MatrixView(Take<float>(rows * cols), rows, cols);
  }

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

  kernels::Buffer buffer_;
  int64_t used_ = 0;
};

}  // namespace sluice
