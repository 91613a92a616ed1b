// Row-wise ops of the CUDA backend, and routing, which the host waits for.
#include <algorithm>
#include <cstring>

#include "kernels/check.h"
#include "kernels/cuda/cuda_backend.h"

namespace sluice::kernels::cuda {

void CudaBackend::Norm(const NormArgs& args) {
  const int64_t group = args.group > 0 ? args.group : args.x.cols;
  SLUICE_CHECK(group > 0 && args.x.cols % group == 0) << args.x.cols << " " << group;
  if (args.x_rows.count == 0) return;
  const NormCall call{.kind = args.kind,
                      .epsilon = args.epsilon,
                      .weight = Values(args.weight),
                      .bias = Values(args.bias),
                      .group = group,
                      .groups = args.x.cols / group,
                      .x = Rows(args.x, args.x_rows),
                      .out = Rows(args.out, args.out_rows),
                      .count = args.x_rows.count};
  Run("norm", [&] { return LaunchNorm(call, stream_); });
}

void CudaBackend::RopeTable(const RopeTableArgs& args) {
  if (args.count == 0 || args.num_frequencies == 0) return;
  const RopeTableCall call{
      .positions = List(args.positions, args.count),
      .inverse_frequencies = List(args.inverse_frequencies, args.num_frequencies),
      .count = args.count,
      .num_frequencies = args.num_frequencies,
      .factor = args.factor,
      .out = Rows(args.out, AllRows(args.count))};
  Run("rope table", [&] { return LaunchRopeTable(call, stream_); });
}

void CudaBackend::Rope(const RopeArgs& args) {
  const int32_t count = args.table_rows.count;
  const auto half = static_cast<int32_t>(args.table.cols / 2);
  if (count == 0 || half == 0) return;
  const RopeCall call{.x = Rows(args.x, AllRows(count)),
                      .table = Rows(args.table, args.table_rows),
                      .count = count,
                      .num_heads = args.num_heads,
                      .head_dim = args.head_dim,
                      .half = half,
                      .style = args.style};
  Run("rope", [&] { return LaunchRope(call, stream_); });
}

void CudaBackend::Activate(const ActivateArgs& args) {
  SLUICE_CHECK(args.gated || args.activation != Activation::kClampedSwiglu);
  if (args.rows == 0) return;
  const ActivateCall call{.activation = args.activation,
                          .gated = args.gated,
                          .clamp = args.clamp,
                          .x = Rows(args.x, AllRows(args.rows)),
                          .out = Rows(args.out, AllRows(args.rows)),
                          .rows = args.rows,
                          .width = args.gated ? args.x.cols / 2 : args.x.cols};
  Run("activate", [&] { return LaunchActivate(call, stream_); });
}

void CudaBackend::Gather(TensorView x, const RowSet& rows, TensorView out) {
  if (rows.count == 0 || x.cols == 0) return;
  const CopyCall call{.from = Rows(x, rows),
                      .to = Rows(out, AllRows(rows.count)),
                      .rows = rows.count,
                      .cols = x.cols,
                      .add = false,
                      .scale = 1.0f};
  Run("gather", [&] { return LaunchCopy(call, stream_); });
}

void CudaBackend::AddRows(TensorView y, float scale, TensorView x, const RowSet& rows) {
  if (rows.count == 0 || x.cols == 0) return;
  const CopyCall call{.from = Rows(y, AllRows(rows.count)),
                      .to = Rows(x, rows),
                      .rows = rows.count,
                      .cols = x.cols,
                      .add = true,
                      .scale = scale};
  Run("add rows", [&] { return LaunchCopy(call, stream_); });
}

void CudaBackend::CombineDepth(const DepthCombineArgs& args) {
  if (args.rows.count == 0 || args.x.cols == 0) return;
  const CombineCall call{.combine = args.combine,
                         .gate = args.gate,
                         .y = Rows(args.y, AllRows(args.rows.count)),
                         .x = Rows(args.x, args.rows),
                         .scores = List(args.scores, args.rows.count),
                         .rows = args.rows.count,
                         .cols = args.x.cols};
  Run("combine depth", [&] { return LaunchCombineDepth(call, stream_); });
}

void CudaBackend::Fill(TensorView x, float value) {
  if (x.rows == 0 || x.cols == 0) return;
  const auto rows = static_cast<int32_t>(x.rows);
  const DeviceRows out = Rows(x, AllRows(rows));
  Run("fill", [&] { return LaunchFill(out, rows, x.cols, value, stream_); });
}

void CudaBackend::SelectAbove(const SelectAboveArgs& args) {
  *args.count = 0;
  if (args.rows == 0) return;
  const size_t bytes = static_cast<size_t>(args.rows + 1) * sizeof(int32_t);
  const SelectCall call{.scores = List(args.scores, args.rows),
                        .thresholds = List(args.thresholds, args.rows),
                        .rows = args.rows,
                        .selected = static_cast<int32_t*>(lists_.Room(bytes))};
  Run("select above", [&] { return LaunchSelectAbove(call, stream_); });
  rows_.assign(static_cast<size_t>(args.rows) + 1, 0);
  if (status_.ok()) lists_.Fetch(call.selected, rows_.data(), bytes);
  *args.count = rows_.back();
  std::copy_n(rows_.begin(), rows_.back(), args.selected);
}

void CudaBackend::Route(const RouteArgs& args) {
  SLUICE_CHECK(args.top_k <= args.logits.cols) << args.top_k;
  SLUICE_CHECK(args.num_groups >= 1 && args.logits.cols % args.num_groups == 0) << args.num_groups;
  SLUICE_CHECK(args.num_groups == 1 ||
               args.top_k <= args.top_groups * (args.logits.cols / args.num_groups))
      << args.top_k;
  if (args.rows == 0) return;
  const size_t count = static_cast<size_t>(args.rows) * static_cast<size_t>(args.top_k);
  const size_t bytes = count * sizeof(int32_t);
  RouteCall call{.score = args.score,
                 .top_k = args.top_k,
                 .renormalize = args.renormalize,
                 .renormalize_epsilon = args.renormalize_epsilon,
                 .scale = args.scale,
                 .selection_bias = Values(args.selection_bias),
                 .logits = Rows(args.logits, AllRows(args.rows)),
                 .rows = args.rows,
                 .num_experts = static_cast<int32_t>(args.logits.cols),
                 .num_groups = args.num_groups,
                 .top_groups = args.top_groups,
                 .group_score = args.group_score,
                 .experts = static_cast<int32_t*>(lists_.Room(2 * bytes)),
                 .weights = nullptr};
  call.weights = reinterpret_cast<float*>(call.experts + count);
  Run("route", [&] { return LaunchRoute(call, stream_); });
  // A device that has failed chooses the first expert: the ids stay valid until somebody asks it.
  std::fill_n(args.experts, count, 0);
  std::fill_n(args.weights, count, 0.0f);
  if (!status_.ok()) return;
  rows_.resize(2 * count);
  lists_.Fetch(call.experts, rows_.data(), 2 * bytes);
  if (!status_.ok()) return;
  std::memcpy(args.experts, rows_.data(), bytes);
  std::memcpy(args.weights, rows_.data() + count, bytes);
}

}  // namespace sluice::kernels::cuda
