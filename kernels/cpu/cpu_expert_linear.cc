// ExpertLinear of the CPU backend. Assignments are taken in chunks; inside a chunk they are sorted
// by expert, multiplied into a product each, and added in ascending order, so neither chunking nor
// sorting nor who computes what changes a bit.
#include <algorithm>

#include "kernels/check.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/packed_layout.h"

namespace sluice::kernels::cpu {

// A run of assignments of one expert, all of its or as many as a task takes.
struct ExpertRun {
  int32_t expert = 0;
  int32_t begin = 0;  // in the sorted chunk
  int32_t end = 0;
};

// Assignments [begin, begin + count) sorted by expert.
struct ExpertChunk {
  int32_t begin = 0;
  int32_t count = 0;
  int32_t order[kExpertChunk];   // sorted position -> offset in the chunk
  int32_t x_rows[kExpertChunk];  // sorted
  ExpertRun runs[kExpertChunk];
  int32_t num_runs = 0;
};

namespace {

void Sort(const ExpertLinearArgs& args, int32_t most_rows, ExpertChunk& chunk) {
  const PackedMatrix& shape = args.weights[0];
  uint64_t keys[kExpertChunk];  // expert, then place: stable
  for (int32_t i = 0; i < chunk.count; ++i) {
    const int32_t expert = args.expert[chunk.begin + i];
    SLUICE_CHECK(expert >= 0 && static_cast<size_t>(expert) < args.weights.size()) << expert;
    keys[i] = static_cast<uint64_t>(expert) << 32 | static_cast<uint64_t>(i);
  }
  std::sort(keys, keys + chunk.count);
  for (int32_t i = 0; i < chunk.count; ++i) {
    const auto expert = static_cast<int32_t>(keys[i] >> 32);
    chunk.order[i] = static_cast<int32_t>(keys[i] & 0xFFFFFFFFu);
    chunk.x_rows[i] = args.x_row[chunk.begin + chunk.order[i]];
    const ExpertRun* last = chunk.num_runs == 0 ? nullptr : &chunk.runs[chunk.num_runs - 1];
    if (last == nullptr || last->expert != expert || i - last->begin == most_rows) {
      const PackedMatrix& weight = args.weights[static_cast<size_t>(expert)];
      SLUICE_CHECK(weight.n == shape.n && weight.k == shape.k && weight.format == shape.format)
          << expert << ": " << weight.n << "x" << weight.k;
      chunk.runs[chunk.num_runs++] = {expert, i, i};
    }
    chunk.runs[chunk.num_runs - 1].end = i + 1;
  }
}

const PackedMatrix& WeightOf(const ExpertLinearArgs& args, const ExpertRun& run) {
  return args.weights[static_cast<size_t>(run.expert)];
}

}  // namespace

void CpuBackend::AddProducts(const ExpertLinearArgs& args,
                             const ExpertChunk& chunk,
                             TensorView from,
                             int64_t column) const {
  const int64_t columns = std::min(from.cols, args.weights[0].n - column);
  for (int32_t i = 0; i < chunk.count; ++i) {
    const int32_t a = chunk.begin + i;
    const float scale = args.scale == nullptr ? 1.0f : args.scale[a];
    selection_.vector->add_scaled(from.Row(i), scale, columns,
                                  args.out.Row(args.out_row[a]) + column);
  }
}

// The outputs of blocks [first_block, last_block) of the whole chunk. The products stay in the
// worker's cache until they are added.
void CpuBackend::RunExpertColumns(const ExpertLinearArgs& args,
                                  const ExpertChunk& chunk,
                                  const GemmInput& input,
                                  int64_t first_block,
                                  int64_t last_block,
                                  int worker) {
  const int64_t columns = (last_block - first_block) * kBlockColumns;
  auto* memory = worker_[static_cast<size_t>(worker)].Get<float>(kExpertProducts);
  GemmOutput output;
  output.out = MatrixView(memory, chunk.count, columns);
  output.rows = {chunk.order, chunk.count, nullptr};
  output.first_column = first_block * kBlockColumns;
  for (int32_t r = 0; r < chunk.num_runs; ++r) {
    const ExpertRun& run = chunk.runs[r];
    const PackedMatrix& weight = WeightOf(args, run);
    const bool last_run = r + 1 == chunk.num_runs;
    const void* next_run =
        last_run ? nullptr : ValuesAt(WeightOf(args, chunk.runs[r + 1]), first_block);
    for (int64_t block = first_block; block < last_block; ++block) {
      const void* next = block + 1 < last_block ? ValuesAt(weight, block + 1) : next_run;
      RunBlock(input, weight, output, {block, run.begin, run.end, Expanded(worker), next});
    }
  }
  AddProducts(args, chunk, output.out, output.first_column);
}

// Few outputs for many threads: a task for each block of each expert, then the sums.
void CpuBackend::RunExpertBlocks(const ExpertLinearArgs& args,
                                 const ExpertChunk& chunk,
                                 const GemmInput& input) {
  const PackedMatrix& shape = args.weights[0];
  const int64_t blocks = shape.n_padded / kBlockColumns;
  const int64_t count = chunk.count;
  GemmOutput output;
  output.out = MatrixView(partial_.Get<float>(count * shape.n_padded), count, shape.n_padded);
  output.rows = {chunk.order, chunk.count, nullptr};
  const GemmFamily& family = *input.family;
  const int64_t work = count * shape.n_padded * shape.k_padded;
  For(blocks * chunk.num_runs, work, [&](int64_t task, int worker) {
    const ExpertRun& run = chunk.runs[task / blocks];
    RunBlock(input, WeightOf(args, run), output,
             {task % blocks, run.begin, run.end, Expanded(worker)});
    if (family.end != nullptr) family.end();
  });
  For(blocks, count * shape.n_padded, [&](int64_t block, int) {
    const int64_t column = block * kBlockColumns;
    AddProducts(args, chunk, output.out.Columns(column, kBlockColumns), column);
  });
}

void CpuBackend::RunExpertChunk(const ExpertLinearArgs& args, int32_t begin, int32_t count) {
  ExpertChunk chunk;
  chunk.begin = begin;
  chunk.count = count;
  const PackedMatrix& shape = args.weights[0];
  const auto num_experts = static_cast<int64_t>(args.weights.size());
  const GemmFamily& family = Family(shape.format, (count + num_experts - 1) / num_experts);
  const int64_t blocks = shape.n_padded / kBlockColumns;
  const int64_t wanted = kExpertBlocksPerThread * pool_.num_threads();
  const int64_t rows = RoundUp((count * blocks + wanted - 1) / wanted, family.max_rows);
  Sort(args, static_cast<int32_t>(blocks < wanted ? rows : count), chunk);
  const GemmInput input = PrepareInput(args.x, {chunk.x_rows, count, nullptr}, shape, family);
  if (blocks < wanted) return RunExpertBlocks(args, chunk, input);
  // Neighbouring blocks of an expert are one stream of memory.
  const int64_t most = std::min(blocks / wanted, kExpertChunk / int64_t{count});
  const int64_t tasks = (blocks + most - 1) / most;
  For(tasks, count * shape.n_padded * shape.k_padded, [&](int64_t task, int worker) {
    const int64_t last = std::min(blocks, (task + 1) * most);
    RunExpertColumns(args, chunk, input, task * most, last, worker);
    if (family.end != nullptr) family.end();
  });
}

void CpuBackend::ExpertLinear(const ExpertLinearArgs& args) {
  for (int32_t begin = 0; begin < args.count; begin += kExpertChunk) {
    RunExpertChunk(args, begin, std::min(kExpertChunk, args.count - begin));
  }
}

}  // namespace sluice::kernels::cpu
