// The paged cache and attention of the CUDA backend: what the kernels need to know of the page
// tables.
#include <algorithm>

#include "kernels/check.h"
#include "kernels/cuda/cuda_backend.h"

namespace sluice::kernels::cuda {

int64_t CudaBackend::KvPageBytes(const KvGeometry& geometry) const {
  const int64_t values = geometry.value_in_key ? 0 : geometry.value_dim;
  return int64_t{geometry.num_kv_heads} * (geometry.key_dim + values) * geometry.page_tokens *
         SizeOf(geometry.dtype);
}

PageShape CudaBackend::ShapeOf(const KvLayerView& kv) const {
  const KvGeometry& geometry = kv.geometry;
  return {.pool = static_cast<unsigned char*>(kv.pool),
          .page_bytes = kv.page_bytes,
          .num_kv_heads = geometry.num_kv_heads,
          .key_dim = geometry.key_dim,
          .value_dim = geometry.value_dim,
          .page_tokens = geometry.page_tokens,
          .bf16 = geometry.dtype == DType::kBF16,
          .value_in_key = geometry.value_in_key};
}

namespace {

int32_t PageAt(const KvLayerView& kv, int32_t sequence, int64_t block) {
  return kv.page_table[sequence * kv.sequence_stride + block * kv.block_stride];
}

}  // namespace

void CudaBackend::AppendKv(const AppendKvArgs& args) {
  const int32_t count = args.rows.count;
  if (count == 0) return;
  pages_.clear();
  for (int32_t i = 0; i < count; ++i) {
    pages_.push_back(
        PageAt(args.kv, args.rows.sequence[i], args.rows.slot[i] / args.kv.geometry.page_tokens));
  }
  AppendCall call{.shape = ShapeOf(args.kv),
                  .pages = List(pages_.data(), count),
                  .slots = List(args.rows.slot, count),
                  .key = Rows(args.key, AllRows(count)),
                  .value = {},
                  .rows = count};
  if (!args.kv.geometry.value_in_key) call.value = Rows(args.value, AllRows(count));
  Run("append kv", [&] { return LaunchAppendKv(call, stream_); });
}

void CudaBackend::PagedAttention(const AttentionArgs& args) {
  constexpr int64_t kSharedBytes = 48 * 1024;  // what a block may have without asking
  const KvGeometry& geometry = args.kv.geometry;
  const int32_t count = args.rows.count;
  SLUICE_CHECK(args.num_heads % geometry.num_kv_heads == 0) << args.num_heads;
  SLUICE_CHECK(args.sinks == nullptr || args.row_sinks == nullptr);
  SLUICE_CHECK(args.span_heads == 1 || args.span_heads == args.num_heads) << args.span_heads;
  if (count == 0) return;
  const bool spans = args.spans != nullptr;
  SLUICE_CHECK(!spans || args.num_spans > 0);
  const int64_t spans_per_row = int64_t{args.span_heads} * args.num_spans;
  const auto last_slot = [&](int32_t row) {
    if (!spans) return args.rows.end[row];
    int32_t last = 0;
    for (int64_t i = row * spans_per_row; i < (row + 1) * spans_per_row; ++i)
      last = std::max(last, args.spans[i].end);
    return last;
  };
  // The rows of a sequence follow each other; one that comes back gets its pages listed again.
  sequences_.clear();
  table_row_.clear();
  int32_t slots = 0;
  for (int32_t i = 0; i < count; ++i) {
    if (sequences_.empty() || sequences_.back() != args.rows.sequence[i])
      sequences_.push_back(args.rows.sequence[i]);
    table_row_.push_back(static_cast<int32_t>(sequences_.size()) - 1);
    slots = std::max(slots, last_slot(i));
  }
  const int32_t blocks = (slots + geometry.page_tokens - 1) / geometry.page_tokens;
  table_.assign(sequences_.size() * static_cast<size_t>(blocks), 0);
  for (int32_t i = 0; i < count; ++i) {
    const auto row = static_cast<size_t>(table_row_[static_cast<size_t>(i)]);
    const int32_t own = (last_slot(i) + geometry.page_tokens - 1) / geometry.page_tokens;
    for (int32_t b = 0; b < own; ++b) {
      table_[row * static_cast<size_t>(blocks) + static_cast<size_t>(b)] =
          PageAt(args.kv, args.rows.sequence[i], b);
    }
  }
  AttentionCall call{.shape = ShapeOf(args.kv),
                     .table = List(table_.data(), static_cast<int64_t>(table_.size())),
                     .max_blocks = blocks,
                     .table_row = List(table_row_.data(), count),
                     .slot = List(args.rows.slot, count),
                     .begin = List(args.rows.begin, count),
                     .end = List(args.rows.end, count),
                     .rows = count,
                     .query = Rows(args.query, AllRows(count)),
                     .out = Rows(args.out, AllRows(count)),
                     .num_heads = args.num_heads,
                     .heads_per_block = 1,
                     .scale = args.scale,
                     .sinks = Values(args.sinks),
                     .row_sinks = List(args.row_sinks, count),
                     .relative = Values(args.relative),
                     .relative_size = args.relative_size,
                     .relative_zero = args.relative_zero,
                     .relative_shared = args.relative_shared,
                     .spans = List(args.spans, count * spans_per_row),
                     .num_spans = args.num_spans,
                     .span_heads = args.span_heads};
  // Heads of a block share their slots. How many there are changes no bit.
  const int32_t group = args.num_heads / geometry.num_kv_heads;
  while (args.span_heads == 1 && call.heads_per_block < group &&
         AttentionSharedBytes(call.shape, call.heads_per_block + 1) <= kSharedBytes)
    ++call.heads_per_block;
  SLUICE_CHECK(AttentionSharedBytes(call.shape, call.heads_per_block) <= kSharedBytes)
      << geometry.key_dim << " " << geometry.value_dim;
  Run("attention", [&] { return LaunchAttention(call, stream_); });
}

}  // namespace sluice::kernels::cuda
