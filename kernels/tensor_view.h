// Non-owning matrix view: rows of `cols` contiguous elements, `row_stride` elements apart. Heads
// are folded into the columns; ops that need them say so. Passed by value.
#pragma once

#include <cstdint>

#include "kernels/dtype.h"

namespace sluice::kernels {

struct TensorView {
  void* data = nullptr;
  DType dtype = DType::kF32;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t row_stride = 0;  // elements

  template <typename T = float>
  T* Row(int64_t row) const {
    return static_cast<T*>(data) + row * row_stride;
  }
  // Columns [begin, begin + count) of every row.
  TensorView Columns(int64_t begin, int64_t count) const {
    return {static_cast<char*>(data) + begin * SizeOf(dtype), dtype, rows, count, row_stride};
  }
  // Rows [begin, begin + count).
  TensorView Rows(int64_t begin, int64_t count) const {
    return {static_cast<char*>(data) + begin * row_stride * SizeOf(dtype), dtype, count, cols,
            row_stride};
  }
};

inline TensorView MatrixView(void* data, int64_t rows, int64_t cols, DType dtype = DType::kF32) {
  return {data, dtype, rows, cols, cols};
}

// Which rows of a matrix an op reads or writes: 0..count-1, or the entries of an index list.
// The count may be data dependent: `count` is what the host knows (exact on the CPU, an upper bound
// on a device), `device_count`, when set, points to the exact count in device memory.
struct RowSet {
  const int32_t* index = nullptr;  // null means the identity
  int32_t count = 0;
  const int32_t* device_count = nullptr;

  int32_t operator[](int32_t i) const { return index == nullptr ? i : index[i]; }
};

inline RowSet AllRows(int64_t count) { return {nullptr, static_cast<int32_t>(count), nullptr}; }

}  // namespace sluice::kernels
