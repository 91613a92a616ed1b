// Row-wise ops of the CPU backend: norm, activation, rope, gather, residual, depth merge and
// selection.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/check.h"
#include "kernels/cpu/cpu_backend.h"

namespace sluice::kernels::cpu {
namespace {

float Gate(GateFunction gate, float score) {
  switch (gate) {
    case GateFunction::kIdentity:
      return score;
    case GateFunction::kSigmoid:
      return 1.0f / (1.0f + std::exp(-score));
    case GateFunction::kOne:
      return 1.0f;
    case GateFunction::kTanh:
      return std::tanh(score);
  }
  return 1.0f;
}

// Rotates the pairs (first[f * step], second[f * step]).
void RotateHead(const RopeArgs& args, const float* table, float* head) {
  const int64_t half = args.table.cols / 2;
  const int64_t step = args.style == RopeStyle::kHalf ? 1 : 2;
  float* first = head;
  float* second = args.style == RopeStyle::kHalf ? head + half : head + 1;
  for (int64_t f = 0; f < half; ++f) {
    const float a = first[f * step];
    const float b = second[f * step];
    first[f * step] = a * table[f] - b * table[half + f];
    second[f * step] = b * table[f] + a * table[half + f];
  }
}

}  // namespace

void CpuBackend::Norm(const NormArgs& args) {
  const int64_t group = args.group > 0 ? args.group : args.x.cols;
  SLUICE_CHECK(group > 0 && args.x.cols % group == 0) << args.x.cols << " " << group;
  SLUICE_CHECK(args.x_rows.count == args.out_rows.count);
  ForRows(args.x_rows.count, args.x.cols, [&](int64_t i) {
    const auto row = static_cast<int32_t>(i);
    const float* x = args.x.Row(args.x_rows[row]);
    float* out = args.out.Row(args.out_rows[row]);
    const bool center = args.kind == NormKind::kLayer;
    for (int64_t begin = 0; begin < args.x.cols; begin += group) {
      selection_.vector->norm(
          {center, args.epsilon, args.weight, args.bias, x + begin, out + begin, group});
    }
  });
}

void CpuBackend::RopeTable(const RopeTableArgs& args) {
  SLUICE_CHECK(args.out.cols == 2 * args.num_frequencies);
  ForRows(args.count, args.out.cols * 16, [&](int64_t i) {
    float* row = args.out.Row(i);
    for (int32_t f = 0; f < args.num_frequencies; ++f) {
      const double angle = static_cast<double>(args.positions[i]) * args.inverse_frequencies[f];
      row[f] = static_cast<float>(args.factor * std::cos(angle));
      row[args.num_frequencies + f] = static_cast<float>(args.factor * std::sin(angle));
    }
  });
}

void CpuBackend::Rope(const RopeArgs& args) {
  SLUICE_CHECK(args.table.cols <= args.head_dim) << args.table.cols << " " << args.head_dim;
  ForRows(args.table_rows.count, args.x.cols, [&](int64_t i) {
    const float* table = args.table.Row(args.table_rows[static_cast<int32_t>(i)]);
    for (int32_t h = 0; h < args.num_heads; ++h) {
      RotateHead(args, table, args.x.Row(i) + static_cast<int64_t>(h) * args.head_dim);
    }
  });
}

void CpuBackend::Activate(const ActivateArgs& args) {
  const int64_t width = args.gated ? args.x.cols / 2 : args.x.cols;
  const auto activation = static_cast<VectorActivation>(args.activation);
  SLUICE_CHECK(args.gated || args.activation != Activation::kClampedSwiglu);
  ForRows(args.rows, args.x.cols * 4, [&](int64_t i) {
    const float* x = args.x.Row(i);
    selection_.vector->activate({activation, x, args.gated ? x + width : nullptr, args.out.Row(i),
                                 width, args.clamp.alpha, args.clamp.limit});
  });
}

void CpuBackend::Gather(TensorView x, const RowSet& rows, TensorView out) {
  ForRows(rows.count, x.cols, [&](int64_t i) {
    const float* from = x.Row(rows[static_cast<int32_t>(i)]);
    std::memcpy(out.Row(i), from, static_cast<size_t>(x.cols) * sizeof(float));
  });
}

void CpuBackend::AddRows(TensorView y, float scale, TensorView x, const RowSet& rows) {
  ForRows(rows.count, x.cols, [&](int64_t i) {
    selection_.vector->add_scaled(y.Row(i), scale, x.cols, x.Row(rows[static_cast<int32_t>(i)]));
  });
}

void CpuBackend::CombineDepth(const DepthCombineArgs& args) {
  ForRows(args.rows.count, args.x.cols, [&](int64_t i) {
    const float gate = args.gate == GateFunction::kOne ? 1.0f : Gate(args.gate, args.scores[i]);
    const float* y = args.y.Row(i);
    float* x = args.x.Row(args.rows[static_cast<int32_t>(i)]);
    for (int64_t c = 0; c < args.x.cols; ++c) {
      switch (args.combine) {
        case DepthCombine::kScaledUpdate:
          x[c] = x[c] + gate * (y[c] - x[c]);
          break;
        case DepthCombine::kPlusBlock:
          x[c] = x[c] + gate * y[c];
          break;
        case DepthCombine::kOnlyBlock:
          x[c] = gate * y[c];
          break;
      }
    }
  });
}

void CpuBackend::Fill(TensorView x, float value) {
  ForRows(x.rows, x.cols, [&](int64_t i) { std::fill_n(x.Row(i), x.cols, value); });
}

void CpuBackend::SelectAbove(const SelectAboveArgs& args) {
  int32_t count = 0;
  for (int32_t i = 0; i < args.rows; ++i) {
    const float threshold = args.thresholds[i];
    const bool always = std::isinf(threshold) && threshold < 0.0f;
    if (always || args.scores[i] > threshold) args.selected[count++] = i;
  }
  *args.count = count;
}

}  // namespace sluice::kernels::cpu
