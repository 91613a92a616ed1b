// Chooses how far ahead of its use a weight is asked for, on the weights themselves: one row, all
// threads, the candidates in turn, each time on other weights, so that none comes from a cache. The
// distance changes no bit.
#include <algorithm>
#include <chrono>
#include <numeric>
#include <span>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/packed_layout.h"
#include "kernels/repeated_timing.h"

namespace sluice::kernels::cpu {

// What is timed at once: runs of output blocks, a task each.
struct WeightSample {
  struct Run {
    const PackedMatrix* weight = nullptr;
    int64_t first_block = 0;
    int64_t last_block = 0;
  };
  std::vector<Run> runs;
  int64_t bytes = 0;
};

namespace {

constexpr int64_t kLeastBytes = int64_t{64} << 20;  // less would stay in the caches
constexpr int64_t kTaskBytes = 256 << 10;
constexpr int64_t kSampleBytes = 4 << 20;
constexpr size_t kLeastRounds = 10;
constexpr size_t kMostRounds = 60;

// As many as are ever timed; the last, smaller one of `weights` is left out.
std::vector<WeightSample> Samples(std::span<const PackedMatrix* const> weights) {
  std::vector<WeightSample> out(1);
  for (const PackedMatrix* weight : weights) {
    const int64_t blocks = weight->n_padded / kBlockColumns;
    const int64_t block_bytes = ValueBytes(weight->format, kBlockColumns * weight->k_padded);
    const int64_t step = std::max<int64_t>(1, kTaskBytes / block_bytes);
    for (int64_t first = 0; first < blocks; first += step) {
      const int64_t last = std::min(blocks, first + step);
      out.back().runs.push_back({weight, first, last});
      out.back().bytes += (last - first) * block_bytes;
      if (out.back().bytes < kSampleBytes) continue;
      if (out.size() > kMostRounds * kPrefetchCandidates.size()) return out;
      out.emplace_back();
    }
  }
  out.pop_back();
  return out;
}

}  // namespace

// Seconds of a byte, added up over the threads: one that ends early waits for no other, or where a
// run ends would count.
double CpuBackend::TimeSample(const GemmInput& input, const WeightSample& sample) {
  std::vector<double> seconds(sample.runs.size());
  pool_.ParallelFor(static_cast<int64_t>(sample.runs.size()), [&](int64_t task, int worker) {
    const auto begin = std::chrono::steady_clock::now();
    const WeightSample::Run& run = sample.runs[static_cast<size_t>(task)];
    auto* memory = worker_[static_cast<size_t>(worker)].Get<float>(kBlockColumns);
    GemmOutput output;
    output.out = MatrixView(memory, 1, kBlockColumns);
    output.rows = AllRows(1);
    for (int64_t block = run.first_block; block < run.last_block; ++block) {
      const void* next = block + 1 < run.last_block ? ValuesAt(*run.weight, block + 1) : nullptr;
      output.first_column = block * kBlockColumns;
      RunBlock(input, *run.weight, output, {block, 0, 1, Expanded(worker), next});
    }
    seconds[static_cast<size_t>(task)] = SecondsSince(begin);
  });
  return std::accumulate(seconds.begin(), seconds.end(), 0.0) / static_cast<double>(sample.bytes);
}

PrefetchTimes CpuBackend::TimePrefetch(std::span<const PackedMatrix* const> weights,
                                       double seconds) {
  const auto begin = std::chrono::steady_clock::now();
  const PackedMatrix& widest =
      **std::max_element(weights.begin(), weights.end(),
                         [](const PackedMatrix* a, const PackedMatrix* b) { return a->k < b->k; });
  std::vector<float> ones(static_cast<size_t>(widest.k), 1.0f);
  const GemmInput input = PrepareInput(MatrixView(ones.data(), 1, widest.k), AllRows(1), widest,
                                       Family(widest.format, 1));
  const std::vector<WeightSample> samples = Samples(weights);
  int64_t& distance = prefetch_[static_cast<size_t>(widest.format)].bytes;
  TimeSample(input, samples[0]);  // wakes the threads
  PrefetchTimes times;
  size_t next = 1;
  double slowest_round = 0.0;
  for (size_t round = 0; round < kMostRounds; ++round) {
    const double elapsed = SecondsSince(begin);
    if (elapsed + slowest_round > seconds) break;
    for (size_t i = 0; i < times.size(); ++i) {
      const size_t candidate = (i + round) % times.size();
      distance = kPrefetchCandidates[candidate];
      times[candidate].push_back(TimeSample(input, samples[next++ % samples.size()]));
    }
    slowest_round = std::max(slowest_round, SecondsSince(begin) - elapsed);
  }
  return times;
}

void CpuBackend::Tune(std::span<const PackedMatrix* const> weights, double seconds) {
  std::vector<std::vector<const PackedMatrix*>> by_format(kNumWeightFormats);
  for (const PackedMatrix* weight : weights)
    if (weight->value_bytes() > 0) by_format[static_cast<size_t>(weight->format)].push_back(weight);
  const auto formats = std::count_if(by_format.begin(), by_format.end(),
                                     [](const auto& matrices) { return !matrices.empty(); });
  for (const auto& matrices : by_format) {
    if (matrices.empty()) continue;
    const WeightFormat format = matrices[0]->format;
    PrefetchChoice& choice = prefetch_[static_cast<size_t>(format)];
    if (!Prefetches(format)) {
      choice.text = "does not prefetch";
      continue;
    }
    if (asked_for_prefetch_) continue;
    int64_t bytes = 0;
    for (const PackedMatrix* weight : matrices) bytes += weight->value_bytes();
    const std::string unmeasured =
        absl::StrCat(PrefetchText(kPrefetchCandidates[0]), ", not measured: ");
    if (bytes < kLeastBytes) {
      choice = {.text = absl::StrCat(unmeasured, "less than ", kLeastBytes >> 20, " MiB of them")};
      continue;
    }
    const PrefetchTimes times = TimePrefetch(matrices, seconds / static_cast<double>(formats));
    choice = times[0].size() < kLeastRounds
                 ? PrefetchChoice{.text = absl::StrCat(unmeasured, "loading was too short")}
                 : ChoosePrefetch(times);
  }
}

}  // namespace sluice::kernels::cpu
