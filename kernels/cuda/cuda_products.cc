// Products of the CUDA backend: plain, by expert, and the feed-forward of experts.
#include <algorithm>
#include <limits>
#include <utility>

#include "kernels/check.h"
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/product_format.h"

namespace sluice::kernels::cuda {

CudaBackend::Prepared CudaBackend::Prepare(const PackedMatrix& weight,
                                           const DeviceRows& x,
                                           int32_t rows,
                                           Buffer& scratch) {
  const int64_t bytes = ValueBytes(weight.format, weight.k_padded);
  auto* data = static_cast<char*>(Reserve(scratch, rows * (bytes + 4)));
  auto* scales = reinterpret_cast<float*>(data + rows * bytes);
  Run("preparing rows", [&] {
    return LaunchPrepare({.format = FormatOf(weight.format),
                          .x = x,
                          .rows = rows,
                          .k = weight.k,
                          .k_padded = weight.k_padded,
                          .out = data,
                          .scales = scales},
                         stream_);
  });
  return {data, scales};
}

namespace {

ProductTile TileWith(const PackedMatrix& weight, const float* bias) {
  return {.weight = weight.data,
          .scales = IsInteger(weight.format) ? weight.scales() : nullptr,
          .bias = bias};
}

ProductCall CallFor(const PackedMatrix& weight) {
  ProductCall call{};
  call.format = FormatOf(weight.format);
  call.k_padded = weight.k_padded;
  call.n = static_cast<int32_t>(weight.n);
  return call;
}

}  // namespace

void CudaBackend::Linear(const LinearArgs& args) {
  const int32_t count = args.x_rows.count;
  SLUICE_CHECK(count == args.out_rows.count) << count << " " << args.out_rows.count;
  if (count == 0) return;
  const Prepared x = Prepare(*args.weight, Rows(args.x, args.x_rows), count, inputs_);
  ProductCall call = CallFor(*args.weight);
  call.x = x.data;
  call.x_scales = x.scales;
  call.whole = TileWith(*args.weight, Values(args.bias));
  call.whole.count = count;
  call.tile_rows = TileRowsFor(count);
  call.activation = args.activation;
  call.out = Rows(args.out, args.out_rows);
  call.accumulate = args.accumulate;
  call.row_scale = List(args.row_scale, count);
  Run("linear", [&] { return LaunchProduct(call, stream_); });
}

int32_t CudaBackend::Runs::Longest() const {
  int32_t longest = 0;
  for (size_t i = 0; i < keys.size(); ++i) longest = std::max(longest, begin[i + 1] - begin[i]);
  return longest;
}

void CudaBackend::Sort(const int32_t* keys, int32_t count, int32_t end, Runs& runs) {
  runs.order.clear();
  runs.keys.clear();
  runs.begin.clear();
  std::vector<int32_t>& places = runs.order;
  for (int32_t a = 0; a < count; ++a) {
    SLUICE_CHECK(keys[a] >= 0) << keys[a];
    if (keys[a] < end) places.push_back(a);
  }
  std::sort(places.begin(), places.end(),
            [&](int32_t a, int32_t b) { return keys[a] != keys[b] ? keys[a] < keys[b] : a < b; });
  for (size_t i = 0; i < places.size(); ++i) {
    const int32_t key = keys[places[i]];
    if (!runs.keys.empty() && runs.keys.back() == key) continue;
    runs.keys.push_back(key);
    runs.begin.push_back(static_cast<int32_t>(i));
  }
  runs.begin.push_back(static_cast<int32_t>(places.size()));
}

template <typename TileOf>
void CudaBackend::RunTiles(ProductCall call, const TileOf& tile_of) {
  call.tile_rows = TileRowsFor(experts_.Longest());
  tiles_.clear();
  for (size_t i = 0; i < experts_.keys.size(); ++i) {
    ProductTile tile = tile_of(experts_.keys[i]);
    for (int32_t at = experts_.begin[i]; at < experts_.begin[i + 1]; at += call.tile_rows) {
      tile.first = at;
      tile.count = std::min(call.tile_rows, experts_.begin[i + 1] - at);
      tiles_.push_back(tile);
    }
  }
  call.num_tiles = static_cast<int32_t>(tiles_.size());
  call.tiles = List(tiles_.data(), call.num_tiles);
  Run("experts", [&] { return LaunchProduct(call, stream_); });
}

void CudaBackend::ExpertLinear(const ExpertLinearArgs& args) {
  if (args.count == 0) return;
  const PackedMatrix& one = args.weights.front();
  const auto num_experts = static_cast<int32_t>(args.weights.size());
  Sort(args.expert, args.count, num_experts, experts_);
  SLUICE_CHECK(static_cast<int32_t>(experts_.order.size()) == args.count) << "no such expert";
  const int32_t x_rows = *std::max_element(args.x_row, args.x_row + args.count) + 1;
  const Prepared x = Prepare(one, Rows(args.x, AllRows(x_rows)), x_rows, inputs_);
  auto* partials =
      static_cast<float*>(Reserve(partials_, int64_t{args.count} * one.n * int64_t{sizeof(float)}));
  ProductCall call = CallFor(one);
  call.x = x.data;
  call.x_scales = x.scales;
  rows_.clear();
  for (const int32_t a : experts_.order) rows_.push_back(args.x_row[a]);
  call.x_rows = List(rows_.data(), args.count);
  // By assignment.
  call.out = {partials, one.n, List(experts_.order.data(), args.count)};
  RunTiles(call, [&](int32_t expert) {
    return TileWith(args.weights[static_cast<size_t>(expert)], nullptr);
  });

  Sort(args.out_row, args.count, std::numeric_limits<int32_t>::max(), outputs_);
  weights_.clear();
  for (const int32_t a : outputs_.order)
    weights_.push_back(args.scale == nullptr ? 1.0f : args.scale[a]);
  const auto rows = static_cast<int32_t>(outputs_.keys.size());
  const AddPartialsCall add{
      .partial = partials,
      .cols = one.n,
      .begin = List(outputs_.begin.data(), rows + 1),
      .place = List(outputs_.order.data(), args.count),
      .scale = List(weights_.data(), args.count),
      .rows = rows,
      .out = Rows(args.out, {outputs_.keys.data(), rows, nullptr}),
  };
  Run("adding experts", [&] { return LaunchAddPartials(add, stream_); });
}

namespace {

// The default's intermediates, [assignments, dim] and [assignments, 2 * slice_hidden].
struct MoeRoom {
  float* partial = nullptr;
  float* hidden = nullptr;
};

int64_t HiddenWidth(const PackedExperts& experts) {
  return experts.gated ? 2 * experts.slice_hidden : experts.slice_hidden;
}

}  // namespace

int64_t CudaBackend::MoeWorkspaceBytes(const PackedExperts& experts,
                                       int32_t max_rows,
                                       int32_t top_k) const {
  return int64_t{max_rows} * top_k * (experts.dim + HiddenWidth(experts)) * int64_t{sizeof(float)};
}

void CudaBackend::MoeFfn(const MoeFfnArgs& args) {
  const PackedExperts& experts = *args.experts;
  const int32_t rows = args.x_rows.count;
  const int32_t assignments = rows * args.top_k;
  if (assignments == 0) return;
  Sort(args.expert_ids, assignments, experts.num_experts, experts_);
  const auto places = static_cast<int32_t>(experts_.order.size());
  MoeRoom room{static_cast<float*>(args.workspace), nullptr};
  room.hidden = room.partial + assignments * experts.dim;
  if (places > 0) {
    const PackedExperts::Slice& shape = experts.At(0, 0);
    const Prepared x = Prepare(shape.w1, Rows(args.x, args.x_rows), rows, inputs_);
    rows_.clear();
    for (const int32_t a : experts_.order) rows_.push_back(a / args.top_k);
    for (int32_t s = 0; s < experts.slices_per_expert; ++s) {
      // Again for every slice: the ring keeps the lists of a few launches only.
      const int32_t* x_rows = List(rows_.data(), places);
      const int32_t* assignment = List(experts_.order.data(), places);
      const PackedExperts::Slice& slice = experts.At(0, s);
      const int64_t width = slice.w1.n;
      const TensorView hidden = MatrixView(room.hidden, places, experts.gated ? 2 * width : width);
      const auto unit = [&](const float* bias, int32_t expert) {
        return bias == nullptr ? nullptr
                               : bias + expert * experts.hidden + s * experts.slice_hidden;
      };
      ProductCall up = CallFor(slice.w1);
      up.x = x.data;
      up.x_scales = x.scales;
      up.x_rows = x_rows;
      up.out = Rows(hidden.Columns(0, width), AllRows(places));
      RunTiles(up, [&](int32_t expert) {
        return TileWith(experts.At(expert, s).w1, unit(Values(args.biases.gate), expert));
      });
      if (experts.gated) {
        up.out = Rows(hidden.Columns(width, width), AllRows(places));
        RunTiles(up, [&](int32_t expert) {
          return TileWith(experts.At(expert, s).w3, unit(Values(args.biases.up), expert));
        });
      }
      const TensorView activated = hidden.Columns(0, width);
      Activate({args.activation, experts.gated, hidden, places, activated, args.clamp});
      const Prepared inner =
          Prepare(slice.w2, Rows(activated, AllRows(places)), places, hidden_inputs_);
      ProductCall down = CallFor(slice.w2);
      down.x = inner.data;
      down.x_scales = inner.scales;
      down.out = {room.partial, experts.dim, assignment};
      down.accumulate = s > 0;
      RunTiles(down, [&](int32_t expert) { return TileWith(experts.At(expert, s).w2, nullptr); });
    }
  }
  const MixExpertsCall mix{.partial = room.partial,
                           .experts = List(args.expert_ids, assignments),
                           .weights = List(args.weights, assignments),
                           .bias = Values(args.biases.down),
                           .num_experts = experts.num_experts,
                           .top_k = args.top_k,
                           .rows = rows,
                           .cols = experts.dim,
                           .out = Rows(args.out, args.out_rows)};
  Run("mixing experts", [&] { return LaunchMixExperts(mix, stream_); });
}

void CudaBackend::Embed(const PackedMatrix& table,
                        std::span<const int32_t> ids,
                        float scale,
                        TensorView out) {
  const auto count = static_cast<int32_t>(ids.size());
  if (count == 0) return;
  for (const int32_t id : ids) SLUICE_CHECK(id >= 0 && id < table.n) << id;
  const EmbedCall call{.format = FormatOf(table.format),
                       .table = table.data,
                       .scales = IsInteger(table.format) ? table.scales() : nullptr,
                       .k = table.k,
                       .k_padded = table.k_padded,
                       .ids = List(ids.data(), count),
                       .count = count,
                       .scale = scale,
                       .out = Rows(out, AllRows(count))};
  Run("embed", [&] { return LaunchEmbed(call, stream_); });
}

}  // namespace sluice::kernels::cuda
