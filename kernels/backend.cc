// The default bodies of the fused methods, written with the plain ops only. They need host-visible
// memory.
#include "kernels/backend.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/check.h"

namespace sluice::kernels {
namespace {

// Rows of one expert that are computed together. Only the workspace size depends on it, never the
// bits.
constexpr int32_t kExpertRows = 64;

// Where the default MoeFfn keeps its intermediates inside the caller's workspace.
struct MoeWorkspace {
  float* partial = nullptr;  // [rows * top_k, dim]
  float* hidden = nullptr;   // [kExpertRows, 2 * slice_hidden]
  int32_t* x_index = nullptr;
  int32_t* partial_index = nullptr;
};

MoeWorkspace Divide(void* workspace, const PackedExperts& experts, int64_t assignments) {
  MoeWorkspace parts;
  parts.partial = static_cast<float*>(workspace);
  parts.hidden = parts.partial + assignments * experts.dim;
  float* end = parts.hidden + kExpertRows * 2 * experts.slice_hidden;
  parts.x_index = static_cast<int32_t*>(static_cast<void*>(end));
  parts.partial_index = parts.x_index + kExpertRows;
  return parts;
}

void RunExpertRows(Backend& backend,
                   const MoeFfnArgs& args,
                   int32_t expert,
                   int32_t rows,
                   const MoeWorkspace& work) {
  const PackedExperts& experts = *args.experts;
  for (int32_t s = 0; s < experts.slices_per_expert; ++s) {
    const PackedExperts::Slice& slice = experts.At(expert, s);
    const int64_t width = slice.w1.n;
    TensorView hidden = MatrixView(work.hidden, rows, experts.gated ? 2 * width : width);
    LinearArgs up{.x = args.x, .x_rows = {work.x_index, rows, nullptr}};
    up.out_rows = AllRows(rows);
    const int64_t unit = expert * experts.hidden + s * experts.slice_hidden;
    up.weight = &slice.w1;
    up.bias = args.biases.gate == nullptr ? nullptr : args.biases.gate + unit;
    up.out = hidden.Columns(0, width);
    backend.Linear(up);
    if (experts.gated) {
      up.weight = &slice.w3;
      up.bias = args.biases.up == nullptr ? nullptr : args.biases.up + unit;
      up.out = hidden.Columns(width, width);
      backend.Linear(up);
    }
    const TensorView activated = hidden.Columns(0, width);
    backend.Activate({args.activation, experts.gated, hidden, rows, activated, args.clamp});
    LinearArgs down{.x = activated, .x_rows = AllRows(rows), .weight = &slice.w2};
    const int64_t assignments = static_cast<int64_t>(args.x_rows.count) * args.top_k;
    down.out = MatrixView(work.partial, assignments, experts.dim);
    down.out_rows = {work.partial_index, rows, nullptr};
    down.accumulate = s > 0;
    backend.Linear(down);
  }
}

}  // namespace

void Backend::ForEach(int64_t count, absl::FunctionRef<void(int64_t)> task) {
  for (int64_t i = 0; i < count; ++i) task(i);
}

int64_t Backend::MoeWorkspaceBytes(const PackedExperts& experts,
                                   int32_t max_rows,
                                   int32_t top_k) const {
  const int64_t partial = static_cast<int64_t>(max_rows) * top_k * experts.dim;
  const int64_t hidden = kExpertRows * 2 * experts.slice_hidden;
  return (partial + hidden + 2 * kExpertRows) * 4;
}

void Backend::MoeFfn(const MoeFfnArgs& args) {
  const PackedExperts& experts = *args.experts;
  const int32_t rows = args.x_rows.count;
  const int32_t assignments = rows * args.top_k;
  const MoeWorkspace work = Divide(args.workspace, experts, assignments);
  for (int32_t expert = 0; expert < experts.num_experts; ++expert) {
    int32_t filled = 0;
    for (int32_t a = 0; a < assignments; ++a) {
      if (args.expert_ids[a] != expert) continue;
      work.x_index[filled] = args.x_rows[a / args.top_k];
      work.partial_index[filled] = a;
      if (++filled < kExpertRows) continue;
      RunExpertRows(*this, args, expert, filled, work);
      filled = 0;
    }
    if (filled > 0) RunExpertRows(*this, args, expert, filled, work);
  }
  const TensorView partial = MatrixView(work.partial, assignments, experts.dim);
  for (int32_t i = 0; i < rows; ++i) {
    float* out = args.out.Row(args.out_rows[i]);
    for (int64_t column = 0; column < experts.dim; ++column) {
      float sum = 0.0f;
      for (int32_t a = i * args.top_k; a < (i + 1) * args.top_k; ++a) {
        SLUICE_DCHECK(args.expert_ids[a] >= 0);
        if (args.expert_ids[a] >= experts.num_experts) continue;
        const float bias = args.biases.down == nullptr
                               ? 0.0f
                               : args.biases.down[args.expert_ids[a] * experts.dim + column];
        sum += args.weights[a] * (partial.Row(a)[column] + bias);
      }
      out[column] += sum;
    }
  }
}

}  // namespace sluice::kernels
