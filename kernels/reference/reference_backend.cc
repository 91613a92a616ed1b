#include "kernels/reference/reference_backend.h"

#include <algorithm>
#include <cstdlib>

#include "kernels/check.h"
#include "kernels/reference/reference_math.h"

namespace sluice::kernels {

using reference::InputRow;
using reference::Sigmoid;
using reference::WeightElement;

std::vector<KernelChoice> ReferenceBackend::Kernels() const {
  return {{"all", "naive loops", "the reference backend was asked for"}};
}

void ReferenceBackend::Embed(const PackedMatrix& table,
                             std::span<const int32_t> ids,
                             float scale,
                             TensorView out) {
  for (size_t i = 0; i < ids.size(); ++i) {
    SLUICE_CHECK(ids[i] >= 0 && ids[i] < table.n) << ids[i];
    float* row = out.Row(static_cast<int64_t>(i));
    for (int64_t k = 0; k < table.k; ++k) row[k] = scale * WeightElement(table, ids[i], k);
  }
}

void ReferenceBackend::Linear(const LinearArgs& args) {
  const PackedMatrix& weight = *args.weight;
  SLUICE_CHECK(args.x_rows.count == args.out_rows.count);
  for (int32_t i = 0; i < args.x_rows.count; ++i) {
    const InputRow x(weight, args.x.Row(args.x_rows[i]));
    float* out = args.out.Row(args.out_rows[i]);
    for (int64_t n = 0; n < weight.n; ++n) {
      double y = x.Dot(n);
      if (args.bias != nullptr) y += static_cast<double>(args.bias[n]);
      y = reference::Activate(args.activation, y);
      if (!args.accumulate) {
        out[n] = static_cast<float>(y);
        continue;
      }
      const double scale = args.row_scale == nullptr ? 1.0 : static_cast<double>(args.row_scale[i]);
      out[n] = static_cast<float>(static_cast<double>(out[n]) + scale * y);
    }
  }
}

void ReferenceBackend::ExpertLinear(const ExpertLinearArgs& args) {
  for (int32_t a = 0; a < args.count; ++a) {
    const int32_t expert = args.expert[a];
    SLUICE_CHECK(expert >= 0 && static_cast<size_t>(expert) < args.weights.size()) << expert;
    const PackedMatrix& weight = args.weights[static_cast<size_t>(expert)];
    const double scale = args.scale == nullptr ? 1.0 : static_cast<double>(args.scale[a]);
    const InputRow x(weight, args.x.Row(args.x_row[a]));
    float* out = args.out.Row(args.out_row[a]);
    for (int64_t n = 0; n < weight.n; ++n) {
      out[n] = static_cast<float>(static_cast<double>(out[n]) + scale * x.Dot(n));
    }
  }
}

void ReferenceBackend::Norm(const NormArgs& args) {
  const int64_t group = args.group > 0 ? args.group : args.x.cols;
  SLUICE_CHECK(group > 0 && args.x.cols % group == 0) << args.x.cols << " " << group;
  for (int32_t i = 0; i < args.x_rows.count; ++i) {
    for (int64_t begin = 0; begin < args.x.cols; begin += group) {
      const float* x = args.x.Row(args.x_rows[i]) + begin;
      float* out = args.out.Row(args.out_rows[i]) + begin;
      double mean = 0.0;
      if (args.kind == NormKind::kLayer) {
        for (int64_t c = 0; c < group; ++c) mean += static_cast<double>(x[c]);
        mean /= static_cast<double>(group);
      }
      double square = 0.0;
      for (int64_t c = 0; c < group; ++c) square += std::pow(static_cast<double>(x[c]) - mean, 2);
      square /= static_cast<double>(group);
      const double inverse = 1.0 / std::sqrt(square + static_cast<double>(args.epsilon));
      for (int64_t c = 0; c < group; ++c) {
        const double weight = args.weight == nullptr ? 1.0 : static_cast<double>(args.weight[c]);
        const double bias = args.bias == nullptr ? 0.0 : static_cast<double>(args.bias[c]);
        out[c] = static_cast<float>((static_cast<double>(x[c]) - mean) * inverse * weight + bias);
      }
    }
  }
}

void ReferenceBackend::RopeTable(const RopeTableArgs& args) {
  for (int32_t i = 0; i < args.count; ++i) {
    float* row = args.out.Row(i);
    for (int32_t f = 0; f < args.num_frequencies; ++f) {
      const double angle = static_cast<double>(args.positions[i]) * args.inverse_frequencies[f];
      row[f] = static_cast<float>(args.factor * std::cos(angle));
      row[args.num_frequencies + f] = static_cast<float>(args.factor * std::sin(angle));
    }
  }
}

void ReferenceBackend::Rope(const RopeArgs& args) {
  const int64_t half = args.table.cols / 2;
  for (int32_t i = 0; i < args.table_rows.count; ++i) {
    const float* table = args.table.Row(args.table_rows[i]);
    for (int32_t h = 0; h < args.num_heads; ++h) {
      float* head = args.x.Row(i) + static_cast<int64_t>(h) * args.head_dim;
      for (int64_t f = 0; f < half; ++f) {
        float& a = args.style == RopeStyle::kHalf ? head[f] : head[2 * f];
        float& b = args.style == RopeStyle::kHalf ? head[f + half] : head[2 * f + 1];
        const double cosine = static_cast<double>(table[f]);
        const double sine = static_cast<double>(table[half + f]);
        const double x = static_cast<double>(a);
        const double y = static_cast<double>(b);
        a = static_cast<float>(x * cosine - y * sine);
        b = static_cast<float>(y * cosine + x * sine);
      }
    }
  }
}

void ReferenceBackend::Activate(const ActivateArgs& args) {
  SLUICE_CHECK(args.gated || args.activation != Activation::kClampedSwiglu);
  const int64_t width = args.gated ? args.x.cols / 2 : args.x.cols;
  for (int32_t i = 0; i < args.rows; ++i) {
    const float* x = args.x.Row(i);
    float* out = args.out.Row(i);
    for (int64_t c = 0; c < width; ++c) {
      double y = reference::Activate(args.activation, static_cast<double>(x[c]));
      if (args.activation == Activation::kClampedSwiglu) {
        y = reference::ClampedSwiglu(args.clamp, y, static_cast<double>(x[width + c]));
      } else if (args.gated) {
        y *= static_cast<double>(x[width + c]);
      }
      out[c] = static_cast<float>(y);
    }
  }
}

void ReferenceBackend::Gather(TensorView x, const RowSet& rows, TensorView out) {
  for (int32_t i = 0; i < rows.count; ++i) {
    std::copy_n(x.Row(rows[i]), x.cols, out.Row(i));
  }
}

void ReferenceBackend::AddRows(TensorView y, float scale, TensorView x, const RowSet& rows) {
  for (int32_t i = 0; i < rows.count; ++i) {
    float* target = x.Row(rows[i]);
    const float* source = y.Row(i);
    for (int64_t c = 0; c < x.cols; ++c) target[c] += scale * source[c];
  }
}

void ReferenceBackend::CombineDepth(const DepthCombineArgs& args) {
  for (int32_t i = 0; i < args.rows.count; ++i) {
    double gate = 1.0;
    if (args.gate == GateFunction::kIdentity) gate = static_cast<double>(args.scores[i]);
    if (args.gate == GateFunction::kSigmoid) gate = Sigmoid(static_cast<double>(args.scores[i]));
    if (args.gate == GateFunction::kTanh) gate = std::tanh(static_cast<double>(args.scores[i]));
    float* x = args.x.Row(args.rows[i]);
    const float* y = args.y.Row(i);
    for (int64_t c = 0; c < args.x.cols; ++c) {
      const double old_value = static_cast<double>(x[c]);
      const double block = static_cast<double>(y[c]);
      double value = gate * block;
      if (args.combine == DepthCombine::kScaledUpdate)
        value = old_value + gate * (block - old_value);
      if (args.combine == DepthCombine::kPlusBlock) value = old_value + gate * block;
      x[c] = static_cast<float>(value);
    }
  }
}

void ReferenceBackend::SelectAbove(const SelectAboveArgs& args) {
  int32_t count = 0;
  for (int32_t i = 0; i < args.rows; ++i) {
    const float threshold = args.thresholds[i];
    const bool always = std::isinf(threshold) && threshold < 0.0f;
    if (always || args.scores[i] > threshold) args.selected[count++] = i;
  }
  *args.count = count;
}

void ReferenceBackend::Fill(TensorView x, float value) {
  for (int64_t i = 0; i < x.rows; ++i) std::fill_n(x.Row(i), x.cols, value);
}

void ReferenceBackend::CopyToHost(const void* device, void* host, size_t bytes) {
  std::memcpy(host, device, bytes);
}

void ReferenceBackend::CopyToDevice(const void* host, void* device, size_t bytes) {
  std::memcpy(device, host, bytes);
}

}  // namespace sluice::kernels
