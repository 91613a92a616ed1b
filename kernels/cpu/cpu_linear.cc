// Dense products of the CPU backend: input preparation, splitting over threads, epilogue.
#include <cstring>

#include "kernels/check.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/packed_layout.h"

namespace sluice::kernels::cpu {
namespace {

// Enough weights per task that claiming it costs nothing, enough tasks that threads end together.
constexpr int64_t kTaskBytes = 64 << 10;
constexpr int64_t kTasksPerThread = 4;

// How one product is cut into tasks: runs of output blocks x runs of rows. Never changes bits.
struct Split {
  int64_t blocks_per_task = 1;
  int64_t block_tasks = 1;
  int64_t rows_per_task = 1;
  int64_t row_tasks = 1;
};

int64_t CeilDivide(int64_t a, int64_t b) { return (a + b - 1) / b; }

Split Plan(int64_t rows, const PackedMatrix& weight, int64_t max_rows, int64_t threads) {
  Split split;
  const int64_t blocks = weight.n_padded / kBlockColumns;
  const int64_t wanted_tasks = kTasksPerThread * threads;
  const int64_t block_bytes = weight.bytes() / std::max<int64_t>(blocks, 1);
  split.blocks_per_task = std::max<int64_t>(1, kTaskBytes / std::max<int64_t>(block_bytes, 1));
  split.blocks_per_task = std::min(split.blocks_per_task, CeilDivide(blocks, wanted_tasks));
  split.block_tasks = CeilDivide(blocks, split.blocks_per_task);
  const int64_t row_tasks = CeilDivide(wanted_tasks, split.block_tasks);
  split.rows_per_task = RoundUp(CeilDivide(rows, row_tasks), max_rows);
  split.row_tasks = CeilDivide(rows, split.rows_per_task);
  return split;
}

}  // namespace

void CpuBackend::PrepareRow(
    const float* x, const GemmFamily& family, int64_t columns, void* out, float* scale) const {
  const int64_t padded = RoundUp(columns, kBlockColumns);
  switch (family.input) {
    case GemmInputType::kF32:
      std::memcpy(out, x, static_cast<size_t>(columns) * sizeof(float));
      break;
    case GemmInputType::kBf16:
      selection_.vector->to_bf16(x, columns, padded, static_cast<uint16_t*>(out));
      break;
    case GemmInputType::kRounded:
      selection_.vector->round_bf16(x, columns, padded, static_cast<float*>(out));
      break;
    case GemmInputType::kInt8:
      selection_.vector->to_int8({x, columns, padded, 0, out, scale});
      break;
    case GemmInputType::kInt8Offset:
      selection_.vector->to_int8({x, columns, padded, 128, out, scale});
      break;
  }
}

GemmInput CpuBackend::PrepareInput(TensorView x,
                                   const RowSet& rows,
                                   const PackedMatrix& weight,
                                   const GemmFamily& family) {
  SLUICE_CHECK(x.dtype == DType::kF32 && x.cols >= weight.k) << x.cols << " " << weight.k;
  if (family.input == GemmInputType::kF32 && rows.index == nullptr)
    return {x.data, x.row_stride, nullptr, &family};
  const int64_t row_bytes = weight.k_padded * InputBytes(family.input);
  const bool scaled = IsInteger(weight.format);
  const int64_t bytes = rows.count * row_bytes;
  char* out = input_.Get<char>(bytes + (scaled ? rows.count * 4 : 0));
  auto* scales = static_cast<float*>(static_cast<void*>(out + bytes));
  ForRows(rows.count, weight.k, [&](int64_t i) {
    const float* row = x.Row(rows[static_cast<int32_t>(i)]);
    PrepareRow(row, family, weight.k, out + i * row_bytes, scales + i);
  });
  return {out, weight.k_padded, scaled ? scales : nullptr, &family};
}

const void* CpuBackend::BlockAt(const GemmInput& input,
                                const PackedMatrix& weight,
                                int64_t column,
                                int8_t* expanded) const {
  const void* block = ValuesAt(weight, column / kBlockColumns);
  if (weight.format != WeightFormat::kInt4 || input.family == &selection_.int4.family) return block;
  selection_.vector->expand_int4(block, weight.k_padded, expanded);
  return expanded;
}

GemmTile CpuBackend::TileAt(const GemmInput& input,
                            int64_t row,
                            const PackedMatrix& weight,
                            int64_t column) const {
  GemmTile tile;
  tile.a =
      static_cast<const char*>(input.data) + row * input.stride * InputBytes(input.family->input);
  tile.a_stride = input.stride;
  tile.k = weight.format == WeightFormat::kF32 ? weight.k : weight.k_padded;
  tile.prefetch_bytes = prefetch_[static_cast<size_t>(weight.format)].bytes;
  if (IsInteger(weight.format)) {
    tile.a_scale = input.scales + row;
    tile.b_scale = weight.scales() + column;
    tile.b_sum = weight.sums() + column;
  }
  return tile;
}

void CpuBackend::RunBlock(const GemmInput& input,
                          const PackedMatrix& weight,
                          const GemmOutput& output,
                          const BlockRange& range) const {
  const GemmFamily& family = *input.family;
  const int64_t column = range.block * kBlockColumns;
  const void* values = BlockAt(input, weight, column, range.expanded);
  alignas(64) float c[kMaxTileRows * kBlockColumns];
  EpilogueRow row;
  row.columns = std::min(kBlockColumns, weight.n - column);
  row.bias = output.bias == nullptr ? nullptr : output.bias + column;
  row.activation = output.activation;
  row.accumulate = output.accumulate;
  for (int64_t begin = range.begin; begin < range.end; begin += family.max_rows) {
    GemmTile tile = TileAt(input, begin, weight, column);
    tile.b = values;
    tile.next = begin + family.max_rows < range.end ? values : range.next;
    tile.c = c;
    tile.rows = static_cast<int32_t>(std::min<int64_t>(family.max_rows, range.end - begin));
    family.tile(tile);
    for (int32_t r = 0; r < tile.rows; ++r) {
      const auto i = static_cast<int32_t>(begin) + r;
      row.acc = c + r * kBlockColumns;
      row.out = output.out.Row(output.rows[i]) + column - output.first_column;
      row.scale = output.row_scale == nullptr ? 1.0f : output.row_scale[i];
      selection_.vector->epilogue(row);
    }
  }
}

void CpuBackend::RunGemm(const GemmInput& input,
                         const PackedMatrix& weight,
                         const GemmOutput& output) {
  const int64_t rows = output.rows.count;
  const GemmFamily& family = *input.family;
  const int64_t blocks = weight.n_padded / kBlockColumns;
  const Split split = Plan(rows, weight, family.max_rows, pool_.num_threads());
  const int64_t tasks = split.block_tasks * split.row_tasks;
  For(tasks, rows * weight.k_padded * blocks, [&](int64_t task, int worker) {
    BlockRange range;
    range.expanded = Expanded(worker);
    range.begin = task % split.row_tasks * split.rows_per_task;
    range.end = std::min(rows, range.begin + split.rows_per_task);
    const int64_t first = task / split.row_tasks * split.blocks_per_task;
    const int64_t last = std::min(blocks, first + split.blocks_per_task);
    for (range.block = first; range.block < last; ++range.block) {
      range.next = range.block + 1 < last ? ValuesAt(weight, range.block + 1) : nullptr;
      RunBlock(input, weight, output, range);
    }
    if (family.end != nullptr) family.end();
  });
}

void CpuBackend::Linear(const LinearArgs& args) {
  SLUICE_CHECK(args.x_rows.count == args.out_rows.count);
  SLUICE_CHECK(args.out.cols >= args.weight->n) << args.out.cols << " " << args.weight->n;
  if (args.x_rows.count == 0 || args.weight->n == 0) return;
  const GemmInput input = PrepareInput(args.x, args.x_rows, *args.weight,
                                       Family(args.weight->format, args.x_rows.count));
  GemmOutput output;
  output.out = args.out;
  output.rows = args.out_rows;
  output.bias = args.bias;
  output.activation = static_cast<VectorActivation>(args.activation);
  output.accumulate = args.accumulate;
  output.row_scale = args.accumulate ? args.row_scale : nullptr;
  RunGemm(input, *args.weight, output);
}

}  // namespace sluice::kernels::cpu
