// ExpertLinear of the CPU backend. Assignments are taken in chunks; inside a chunk they are sorted
// by expert, multiplied into a partial result each, and added in ascending order, so chunking and
// sorting change no bits.
#include "kernels/check.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/packed_layout.h"

namespace sluice::kernels::cpu {
namespace {

// A run of assignments of one expert, at most one GEMM tile.
struct Segment {
  int32_t expert = 0;
  int32_t begin = 0;  // in the sorted chunk
  int32_t end = 0;
};

// The chunk sorted by expert.
struct SortedChunk {
  int32_t order[kExpertChunk];   // sorted position -> offset in the chunk
  int32_t x_rows[kExpertChunk];  // sorted
  Segment segments[kExpertChunk];
  int32_t num_segments = 0;
};

void Sort(const ExpertLinearArgs& args, int32_t begin, int32_t count, SortedChunk& chunk) {
  for (int32_t i = 0; i < count; ++i) {
    const int32_t expert = args.expert[begin + i];
    SLUICE_CHECK(expert >= 0 && static_cast<size_t>(expert) < args.weights.size()) << expert;
    int32_t at = i;  // stable insertion
    for (; at > 0 && args.expert[begin + chunk.order[at - 1]] > expert; --at) {
      chunk.order[at] = chunk.order[at - 1];
    }
    chunk.order[at] = i;
  }
  for (int32_t i = 0; i < count; ++i) chunk.x_rows[i] = args.x_row[begin + chunk.order[i]];
}

void Cut(const ExpertLinearArgs& args,
         int32_t begin,
         int32_t count,
         int32_t max_rows,
         SortedChunk& chunk) {
  chunk.num_segments = 0;
  for (int32_t i = 0; i < count; ++i) {
    const int32_t expert = args.expert[begin + chunk.order[i]];
    Segment* last = chunk.num_segments == 0 ? nullptr : &chunk.segments[chunk.num_segments - 1];
    if (last != nullptr && last->expert == expert && i - last->begin < max_rows) {
      last->end = i + 1;
    } else {
      chunk.segments[chunk.num_segments++] = {expert, i, i + 1};
    }
  }
}

}  // namespace

void CpuBackend::RunExpertChunk(const ExpertLinearArgs& args, int32_t begin, int32_t end) {
  SortedChunk chunk;
  const int32_t count = end - begin;
  const PackedMatrix& shape = args.weights[0];
  const auto num_experts = static_cast<int64_t>(args.weights.size());
  const GemmFamily& family = Family(shape.format, (count + num_experts - 1) / num_experts);
  Sort(args, begin, count, chunk);
  Cut(args, begin, count, family.max_rows, chunk);
  const GemmInput input = PrepareInput(args.x, {chunk.x_rows, count, nullptr}, shape, family);
  const int64_t blocks = shape.n_padded / kBlockColumns;
  GemmOutput output;
  output.out = MatrixView(partial_.Get<float>(count * shape.n_padded), count, shape.n_padded);
  output.rows = {chunk.order, count, nullptr};
  const int64_t work = count * shape.n_padded * shape.k_padded;
  For(blocks * chunk.num_segments, work, [&](int64_t task, int worker) {
    const Segment& segment = chunk.segments[task % chunk.num_segments];
    const PackedMatrix& weight = args.weights[static_cast<size_t>(segment.expert)];
    SLUICE_DCHECK(weight.n == shape.n && weight.k == shape.k && weight.format == shape.format);
    RunBlock(input, weight, output,
             {task / chunk.num_segments, segment.begin, segment.end, Expanded(worker)});
    if (family.end != nullptr) family.end();
  });
  For(blocks, count * shape.n_padded, [&](int64_t block, int) {
    const int64_t column = block * kBlockColumns;
    const int64_t columns = std::min(kBlockColumns, shape.n - column);
    for (int32_t i = 0; i < count; ++i) {
      const int32_t a = begin + i;
      const float scale = args.scale == nullptr ? 1.0f : args.scale[a];
      selection_.vector->add_scaled(output.out.Row(i) + column, scale, columns,
                                    args.out.Row(args.out_row[a]) + column);
    }
  });
}

void CpuBackend::ExpertLinear(const ExpertLinearArgs& args) {
  for (int32_t begin = 0; begin < args.count; begin += kExpertChunk) {
    RunExpertChunk(args, begin, std::min(args.count, begin + kExpertChunk));
  }
}

}  // namespace sluice::kernels::cpu
