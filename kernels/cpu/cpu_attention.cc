// KV pages and paged attention of the CPU backend. A page holds, per KV head, keys
// [key_dim][page_tokens] (one query element meets 16 slots at once) and values
// [page_tokens][value_dim rounded up to 16]; values that are the end of the key are not stored.
#include <algorithm>
#include <limits>

#include "kernels/check.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/packed_layout.h"

namespace sluice::kernels::cpu {
namespace {

constexpr int64_t kVector = 16;

// Bytes of one KV head inside a page.
struct HeadLayout {
  int64_t key_bytes = 0;
  int64_t value_bytes = 0;
  int64_t value_stride = 0;  // elements
};

HeadLayout LayoutOf(const KvGeometry& geometry) {
  SLUICE_CHECK(geometry.page_tokens > 0 && geometry.page_tokens % kVector == 0)
      << "page_tokens must be a multiple of 16: " << geometry.page_tokens;
  SLUICE_CHECK(geometry.dtype == DType::kF32 || geometry.dtype == DType::kBF16);
  HeadLayout layout;
  const int64_t size = SizeOf(geometry.dtype);
  layout.value_stride = RoundUp(geometry.value_dim, kVector);
  layout.key_bytes = geometry.key_dim * geometry.page_tokens * size;
  if (!geometry.value_in_key)
    layout.value_bytes = geometry.page_tokens * layout.value_stride * size;
  SLUICE_CHECK(!geometry.value_in_key || geometry.value_dim <= geometry.key_dim);
  return layout;
}

// Rows that stand in following slots of one page.
struct SlotRun {
  int64_t first_row = 0;
  int64_t count = 0;
  int64_t slot = 0;  // of the first row, inside the page
  int32_t page = 0;
};

SlotRun RunFrom(const AppendKvArgs& args, int64_t row, int64_t end) {
  const KvRows& rows = args.rows;
  const int32_t page_tokens = args.kv.geometry.page_tokens;
  const int32_t block = rows.slot[row] / page_tokens;
  SlotRun run{
      row, 1, rows.slot[row] % page_tokens,
      args.kv
          .page_table[rows.sequence[row] * args.kv.sequence_stride + block * args.kv.block_stride]};
  while (row + run.count < end && run.slot + run.count < page_tokens &&
         rows.sequence[row + run.count] == rows.sequence[row] &&
         rows.slot[row + run.count] == rows.slot[row] + run.count) {
    ++run.count;
  }
  return run;
}

// Writes one head of a run. Key elements are turned over a cache line at a time: the line is read
// once, though rows that are a power of two apart share its place in the cache.
template <typename Element, typename Convert>
void WriteHead(
    const AppendKvArgs& args, const SlotRun& run, int64_t head, char* keys, Convert convert) {
  const KvGeometry& shape = args.kv.geometry;
  const HeadLayout layout = LayoutOf(shape);
  auto* to = static_cast<Element*>(static_cast<void*>(keys)) + run.slot;
  for (int64_t first = 0; first < shape.key_dim; first += kVector) {
    const int64_t last = std::min<int64_t>(shape.key_dim, first + kVector);
    for (int64_t r = 0; r < run.count; ++r) {
      const float* key = args.key.Row(run.first_row + r) + head * shape.key_dim;
      for (int64_t d = first; d < last; ++d) to[d * shape.page_tokens + r] = convert(key[d]);
    }
  }
  if (shape.value_in_key) return;
  auto* values = static_cast<Element*>(static_cast<void*>(keys + layout.key_bytes));
  for (int64_t r = 0; r < run.count; ++r) {
    const float* value = args.value.Row(run.first_row + r) + head * shape.value_dim;
    Element* row = values + (run.slot + r) * layout.value_stride;
    for (int64_t d = 0; d < shape.value_dim; ++d) row[d] = convert(value[d]);
  }
}

const KvSpan* SpansOf(const AttentionArgs& args, int32_t row, int32_t head) {
  const int64_t query = int64_t{row} * args.span_heads + (args.span_heads == 1 ? 0 : head);
  return args.spans + query * args.num_spans;
}

}  // namespace

int64_t CpuBackend::KvPageBytes(const KvGeometry& geometry) const {
  const HeadLayout layout = LayoutOf(geometry);
  return RoundUp(geometry.num_kv_heads * (layout.key_bytes + layout.value_bytes), 64);
}

void CpuBackend::AppendKv(const AppendKvArgs& args) {
  constexpr int64_t kRowsPerTask = kVector;  // a page of the usual size
  const KvGeometry& shape = args.kv.geometry;
  const HeadLayout layout = LayoutOf(shape);
  const int64_t rows = args.rows.count;
  const int64_t groups = (rows + kRowsPerTask - 1) / kRowsPerTask;
  For(groups * shape.num_kv_heads, rows * (args.key.cols + args.value.cols),
      [&](int64_t task, int) {
        const int64_t head = task % shape.num_kv_heads;
        const int64_t first = task / shape.num_kv_heads * kRowsPerTask;
        const int64_t end = std::min(rows, first + kRowsPerTask);
        for (int64_t row = first; row < end;) {
          const SlotRun run = RunFrom(args, row, end);
          char* keys = static_cast<char*>(args.kv.pool) + run.page * args.kv.page_bytes +
                       head * (layout.key_bytes + layout.value_bytes);
          if (shape.dtype == DType::kF32) {
            WriteHead<float>(args, run, head, keys, [](float x) { return x; });
          } else {
            WriteHead<BF16>(args, run, head, keys, [](float x) { return ToBF16(x); });
          }
          row += run.count;
        }
      });
}

void CpuBackend::AttendRow(const AttentionArgs& args,
                           const AttendUnit& unit,
                           float* scratch) const {
  const KvGeometry& shape = args.kv.geometry;
  const HeadLayout layout = LayoutOf(shape);
  const int32_t group = args.num_heads / shape.num_kv_heads;
  AttendTask task;
  task.pool = static_cast<const char*>(args.kv.pool);
  task.page_bytes = args.kv.page_bytes;
  task.page_table =
      args.kv.page_table + args.rows.sequence[unit.first_row] * args.kv.sequence_stride;
  task.block_stride = args.kv.block_stride;
  task.key_offset = unit.kv_head * (layout.key_bytes + layout.value_bytes);
  task.value_offset = task.key_offset + layout.key_bytes;
  task.value_in_key = shape.value_in_key;
  if (shape.value_in_key)
    task.value_offset -= int64_t{shape.value_dim} * shape.page_tokens * SizeOf(shape.dtype);
  task.key_dim = shape.key_dim;
  task.value_dim = shape.value_dim;
  task.value_stride = static_cast<int32_t>(layout.value_stride);
  task.page_tokens = shape.page_tokens;
  task.bf16 = shape.dtype == DType::kBF16;
  task.scale = args.scale;
  task.num_spans = args.num_spans;
  task.scratch = scratch;
  for (int32_t row = unit.first_row; row < unit.last_row; ++row) {
    for (int32_t g = 0; g < group; ++g) {
      const int32_t head = unit.kv_head * group + g;
      AttendQuery query;
      query.query = args.query.Row(row) + static_cast<int64_t>(head) * shape.key_dim;
      query.out = args.out.Row(row) + static_cast<int64_t>(head) * shape.value_dim;
      query.begin = args.rows.begin[row];
      query.end = args.rows.end[row];
      if (args.spans != nullptr) query.spans = SpansOf(args, row, head);
      const float* sink = args.row_sinks != nullptr ? args.row_sinks + row
                          : args.sinks != nullptr   ? args.sinks + head
                                                    : nullptr;
      query.has_sink = sink != nullptr && *sink != -std::numeric_limits<float>::infinity();
      query.sink = query.has_sink ? *sink : 0.0f;
      if (args.relative != nullptr) {
        query.relative =
            args.relative + (args.relative_shared ? head : int64_t{row} * args.num_heads + head) *
                                int64_t{args.relative_size};
        query.relative_size = args.relative_size;
        query.slot = args.rows.slot[row] + args.relative_zero;
      }
      task.queries[task.num_queries++] = query;
      if (task.num_queries < kMaxQueries) continue;
      selection_.vector->attend(task);
      task.num_queries = 0;
    }
  }
  if (task.num_queries > 0) selection_.vector->attend(task);
}

void CpuBackend::PagedAttention(const AttentionArgs& args) {
  const KvGeometry& shape = args.kv.geometry;
  SLUICE_CHECK(args.num_heads % shape.num_kv_heads == 0) << args.num_heads;
  SLUICE_CHECK(args.sinks == nullptr || args.row_sinks == nullptr);
  SLUICE_CHECK(args.span_heads == 1 || args.span_heads == args.num_heads) << args.span_heads;
  const int32_t group = args.num_heads / shape.num_kv_heads;
  const int32_t rows_per_unit = std::max(1, kMaxQueries / group);
  const int64_t units = (args.rows.count + rows_per_unit - 1) / rows_per_unit;
  int64_t visible = 0;
  for (int32_t i = 0; i < args.rows.count; ++i) visible += args.rows.end[i] - args.rows.begin[i];
  const int64_t work = visible * args.num_heads * shape.key_dim;
  const int64_t scratch = kMaxQueries * RoundUp(shape.value_dim, kVector);
  // Tasks that follow each other share the keys and values of one head. The longest rows of a
  // prompt are its last ones: begin with them, so that threads end together.
  For(units * shape.num_kv_heads, work, [&](int64_t task, int worker) {
    const int64_t unit = units - 1 - task % units;
    const auto kv_head = static_cast<int32_t>(task / units);
    const auto first = static_cast<int32_t>(unit * rows_per_unit);
    const int32_t last = std::min(args.rows.count, first + rows_per_unit);
    float* memory = worker_[static_cast<size_t>(worker)].Get<float>(scratch);
    // Rows are attended together while they belong to one sequence.
    for (int32_t begin = first; begin < last;) {
      int32_t end = begin + 1;
      while (end < last && args.rows.sequence[end] == args.rows.sequence[begin]) ++end;
      AttendRow(args, {begin, end, kv_head}, memory);
      begin = end;
    }
  });
}

}  // namespace sluice::kernels::cpu
