// Speed of the CPU kernels against the machine: GEMM in GB/s of weights and FLOP/s, MoE, attention,
// and the plain read bandwidth to compare with. Not a test: nothing gates on it. Set SLUICE_ISA to
// compare families.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "kernels/backend.h"
#include "kernels/backend_factory.h"

namespace sluice::kernels {
namespace {

// SLUICE_BENCH_THREADS=1 makes the CPU column the whole cost, which is what to read on a busy
// machine.
Backend& SharedBackend() {
  static const std::unique_ptr<Backend> backend = [] {
    const char* threads = std::getenv("SLUICE_BENCH_THREADS");
    return std::move(
        *CreateBackend({.device = "cpu", .threads = threads == nullptr ? 0 : std::atoi(threads)}));
  }();
  return *backend;
}

// Weights of about this many bytes are cycled through, so that they come from memory and not from a
// cache.
constexpr int64_t kWorkingSetBytes = int64_t{1} << 30;

std::vector<float> Random(int64_t count) {
  std::vector<float> out(static_cast<size_t>(count));
  std::minstd_rand random(1);
  for (float& value : out) value = static_cast<float>(random() % 2001) / 1000.0f - 1.0f;
  return out;
}

void SetRates(benchmark::State& state, double bytes, double operations) {
  const double n = static_cast<double>(state.iterations());
  state.counters["GB/s"] = benchmark::Counter(n * bytes * 1e-9, benchmark::Counter::kIsRate);
  state.counters["GFLOP/s"] =
      benchmark::Counter(n * operations * 1e-9, benchmark::Counter::kIsRate);
}

void BM_Linear(benchmark::State& state) {
  const auto rows = static_cast<int32_t>(state.range(0));
  const auto format = static_cast<WeightFormat>(state.range(1));
  const int64_t n = state.range(2);
  const int64_t k = state.range(3);
  Backend& backend = SharedBackend();
  std::vector<float> weight = Random(n * k);
  const WeightSource source{weight.data(), DType::kF32, n, k, false};
  std::vector<PackedMatrix> matrices;
  const int64_t bytes = ValueBytes(format, n * k);
  const int64_t copies = rows <= 16 ? kWorkingSetBytes / bytes : 4;
  for (int64_t i = 0; i < copies; ++i) {
    matrices.push_back(std::move(*backend.Pack({&source, 1}, format)));
  }
  backend.ReserveScratch(rows);
  std::vector<float> x = Random(rows * k);
  std::vector<float> out(static_cast<size_t>(rows * n));
  size_t next = 0;
  for (auto _ : state) {
    LinearArgs args{.x = MatrixView(x.data(), rows, k), .x_rows = AllRows(rows)};
    args.weight = &matrices[next++ % matrices.size()];
    args.out = MatrixView(out.data(), rows, n);
    args.out_rows = AllRows(rows);
    backend.Linear(args);
  }
  const double operations = 2.0 * static_cast<double>(rows * n * k);
  SetRates(state, static_cast<double>(bytes), operations);
}

void LinearSizes(benchmark::internal::Benchmark* bench) {
  for (int format : {1, 2, 3, 0}) {  // bf16, int8, int4, f32
    for (int rows : {1, 2, 4, 8, 16, 64, 512}) bench->Args({rows, format, 2048, 2048});
  }
  bench->Args({1, 1, 412, 412})->Args({1, 1, 82, 412});
}
BENCHMARK(BM_Linear)->Apply(LinearSizes)->ArgNames({"rows", "format", "n", "k"})->UseRealTime();

void Sum(const uint64_t* begin, int64_t words) {
  uint64_t sums[32] = {};
  for (int64_t i = 0; i + 32 <= words; i += 32) {
    for (int j = 0; j < 32; ++j) sums[j] += begin[i + j];
  }
  benchmark::DoNotOptimize(sums);
}

// The machine itself: sums memory with as many threads as the backend has.
void BM_PlainRead(benchmark::State& state) {
  const int threads = SharedBackend().num_threads();
  const Buffer buffer = std::move(*SharedBackend().Allocate(static_cast<size_t>(kWorkingSetBytes)));
  std::memset(buffer.data(), 1, buffer.bytes());
  const int64_t words = kWorkingSetBytes / 8 / threads;
  const auto* begin = static_cast<const uint64_t*>(buffer.data());
  for (auto _ : state) {
    std::vector<std::thread> readers;
    for (int t = 1; t < threads; ++t) readers.emplace_back(Sum, begin + t * words, words);
    Sum(begin, words);
    for (std::thread& reader : readers) reader.join();
  }
  SetRates(state, static_cast<double>(kWorkingSetBytes), 0.0);
}
BENCHMARK(BM_PlainRead)->UseRealTime();

// OLMoE-shaped: 64 experts, 8 active.
void BM_Moe(benchmark::State& state) {
  constexpr int64_t kDim = 2048;
  constexpr int64_t kHidden = 1024;
  constexpr int32_t kExperts = 64;
  constexpr int32_t kTopK = 8;
  const auto rows = static_cast<int32_t>(state.range(0));
  const auto format = static_cast<WeightFormat>(state.range(1));
  Backend& backend = SharedBackend();
  PackedExperts experts =
      std::move(*backend.AllocateExperts(kExperts, kDim, kHidden, true, format));
  std::vector<float> weight = Random(kDim * kHidden);
  const WeightSource up{weight.data(), DType::kF32, kHidden, kDim, false};
  const WeightSource down{weight.data(), DType::kF32, kDim, kHidden, false};
  for (int32_t e = 0; e < kExperts; ++e) backend.PackExpert({up, up, down}, e, experts);
  std::vector<float> x = Random(rows * kDim);
  std::vector<float> out(x.size());
  std::vector<float> scales(static_cast<size_t>(rows * kTopK), 0.125f);
  std::vector<int32_t> ids(scales.size());
  std::vector<char> workspace(static_cast<size_t>(backend.MoeWorkspaceBytes(experts, rows, kTopK)));
  std::minstd_rand random(2);
  MoeFfnArgs args{.x = MatrixView(x.data(), rows, kDim), .x_rows = AllRows(rows)};
  args.experts = &experts;
  args.expert_ids = ids.data();
  args.weights = scales.data();
  args.top_k = kTopK;
  args.out = MatrixView(out.data(), rows, kDim);
  args.out_rows = AllRows(rows);
  args.workspace = workspace.data();
  double touched = 0.0;
  for (auto _ : state) {
    std::vector<bool> seen(kExperts, false);
    for (size_t a = 0; a < ids.size(); ++a) {
      // Eight different experts per row, uniform.
      const auto first = static_cast<int32_t>(random() % kExperts);
      ids[a] = a % kTopK == 0 ? first : (ids[a - 1] + 7) % kExperts;
      seen[static_cast<size_t>(ids[a])] = true;
    }
    touched += static_cast<double>(std::count(seen.begin(), seen.end(), true));
    backend.MoeFfn(args);
  }
  const double expert_bytes = static_cast<double>(ValueBytes(format, 3 * kDim * kHidden));
  const double mean_touched = touched / static_cast<double>(state.iterations());
  SetRates(state, mean_touched * expert_bytes, 2.0 * 3.0 * kDim * kHidden * kTopK * rows);
}
BENCHMARK(BM_Moe)
    ->ArgsProduct({{1, 8, 32, 512}, {1, 2}})
    ->ArgNames({"rows", "format"})
    ->UseRealTime();

// One decode row, or a prompt, over `slots` cached tokens.
void BM_Attention(benchmark::State& state) {
  const auto rows = static_cast<int32_t>(state.range(0));
  const auto slots = static_cast<int32_t>(state.range(1));
  const auto kv_heads = static_cast<int32_t>(state.range(2));
  constexpr int32_t kHeads = 16;
  constexpr int32_t kHeadDim = 128;
  Backend& backend = SharedBackend();
  KvLayerView kv;
  kv.geometry = {kv_heads, kHeadDim, kHeadDim, DType::kBF16, 16};
  kv.page_bytes = backend.KvPageBytes(kv.geometry);
  const int32_t blocks = slots / 16;
  const Buffer pool = std::move(*backend.Allocate(static_cast<size_t>(kv.page_bytes * blocks)));
  std::vector<int32_t> pages(static_cast<size_t>(blocks));
  for (int32_t b = 0; b < blocks; ++b) pages[static_cast<size_t>(b)] = b;
  kv.pool = pool.data();
  kv.page_table = pages.data();
  kv.block_stride = 1;
  std::vector<int32_t> zeros(static_cast<size_t>(rows), 0);
  std::vector<int32_t> ends(zeros);
  for (int32_t i = 0; i < rows; ++i) ends[static_cast<size_t>(i)] = slots - rows + 1 + i;
  std::vector<float> query = Random(rows * kHeads * kHeadDim);
  std::vector<float> out(query.size());
  AttentionArgs args{.kv = kv};
  args.rows = {zeros.data(), zeros.data(), zeros.data(), ends.data(), rows};
  args.query = MatrixView(query.data(), rows, kHeads * kHeadDim);
  args.num_heads = kHeads;
  args.out = MatrixView(out.data(), rows, kHeads * kHeadDim);
  for (auto _ : state) backend.PagedAttention(args);
  double visible = 0.0;
  for (int32_t end : ends) visible += end;
  SetRates(state, 4.0 * kv_heads * kHeadDim * slots, visible * kHeads * kHeadDim * 4.0);
}
BENCHMARK(BM_Attention)
    ->Args({1, 2048, 16})
    ->Args({1, 2048, 4})
    ->Args({512, 512, 16})
    ->Args({512, 2048, 4})
    ->ArgNames({"rows", "slots", "kv_heads"})
    ->UseRealTime();

}  // namespace
}  // namespace sluice::kernels

BENCHMARK_MAIN();
