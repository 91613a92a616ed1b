#include "kernels/machine_limits.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "kernels/backend_factory.h"
#include "kernels/cpu/cpu_features.h"
#include "kernels/cpu/peak_loops.h"
#include "kernels/cpu/processors.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/host_memory.h"
#include "kernels/repeated_timing.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace sluice::kernels {
namespace cpu {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kMaxThreads = 1024;
constexpr int64_t kSmallestRead = 256 << 10;
constexpr int64_t kLargestRead = int64_t{1} << 30;
constexpr int64_t kLineBytes = 512;  // unit of a read loop

struct Unit {
  const PeakLoop* loop = nullptr;
  bool available = false;
};

#if defined(__x86_64__)
bool HasAmxInt8() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) != 0 && ((edx >> 25) & 1u) != 0;
}
#endif

std::vector<Unit> Units(const CpuFeatures& features) {
#if defined(__x86_64__)
  const bool avx512 = features.isa >= Isa::kAvx512;
  const bool amx = features.isa >= Isa::kAmx;
  return {{&kPeakF32Scalar, true},
          {&kPeakF32Avx2, features.isa >= Isa::kAvx2},
          {&kPeakF32Avx512, avx512},
          {&kPeakBf16Avx512, features.avx512_bf16},
          {&kPeakInt8Avx512, avx512 && __builtin_cpu_supports("avx512vnni") != 0},
          {&kPeakBf16Amx, amx},
          {&kPeakInt8Amx, amx && HasAmxInt8()}};
#else
  static_cast<void>(features);
  return {{&kPeakF32Scalar, true}};
#endif
}

ReadLoop SelectRead(const CpuFeatures& features) {
#if defined(__x86_64__)
  if (features.isa >= Isa::kAvx512) return &ReadAvx512;
  if (features.isa >= Isa::kAvx2) return &ReadAvx2;
#endif
  static_cast<void>(features);
  return &ReadScalar;
}

class Measurement {
 public:
  Measurement(const CpuFeatures& features, int threads)
      : features_(features), read_(SelectRead(features)), one_(1), all_(threads) {}

  ReadRate Read(const Buffer& buffer, int64_t bytes, bool all) {
    ThreadPool& pool = all ? all_ : one_;
    const int64_t threads = pool.num_threads();
    const int64_t part = bytes / threads / kLineBytes * kLineBytes;
    const auto* begin = static_cast<const char*>(buffer.data());
    // One hand-over for all repeats: tasks of the same size, so that each thread takes one.
    const double seconds = BestSeconds([&](int64_t repeats) {
      pool.ParallelFor(threads, [&](int64_t task, int) {
        uint64_t sum = 0;
        for (int64_t i = 0; i < repeats; ++i) sum += read_(begin + task * part, part);
        sink_.fetch_add(sum, std::memory_order_relaxed);
      });
      return true;
    });
    return {part * threads, static_cast<int>(threads),
            static_cast<double>(part * threads) / seconds};
  }

  PeakRate Peak(const Unit& unit, bool all) {
    ThreadPool& pool = all ? all_ : one_;
    const int threads = pool.num_threads();
    PeakRate rate{unit.loop->unit, threads, 0.0};
    if (!unit.available) return rate;
    const double seconds = BestSeconds([&](int64_t repeats) {
      pool.ParallelFor(threads, [&](int64_t, int) {
        const float value = unit.loop->run(repeats);
        sink_.fetch_add(value > 0.0f ? 1 : 0, std::memory_order_relaxed);
      });
      return true;
    });
    rate.operations_per_second = threads * unit.loop->operations_per_round / seconds;
    return rate;
  }

  // Median of single calls that follow each other at once, as ops do in a step.
  double HandOver() {
    constexpr int kCalls = 2001;
    std::vector<double> seconds;
    for (int i = 0; i < kCalls; ++i) {
      const Clock::time_point begin = Clock::now();
      all_.ParallelFor(all_.num_threads(),
                       [&](int64_t, int) { sink_.fetch_add(1, std::memory_order_relaxed); });
      seconds.push_back(SecondsSince(begin));
    }
    std::nth_element(seconds.begin(), seconds.begin() + kCalls / 2, seconds.end());
    return seconds[kCalls / 2];
  }

  const CpuFeatures& features() const { return features_; }

 private:
  CpuFeatures features_;
  ReadLoop read_;
  ThreadPool one_, all_;
  std::atomic<uint64_t> sink_{0};  // what the loops return is used
};

int64_t CacheBytes(int name) {
  const long bytes = sysconf(name);
  return bytes > 0 ? bytes : 0;
}

}  // namespace
}  // namespace cpu

double MachineLimits::memory_bytes_per_second() const {
  double rate = 0.0;
  for (const ReadRate& read : reads) {
    if (read.threads == threads) rate = read.bytes_per_second;
  }
  return rate;
}

double MachineLimits::operations_per_second(const std::string& kind) const {
  double best = 0.0;
  for (const PeakRate& peak : peaks) {
    if (peak.threads == threads && absl::StartsWith(peak.unit, kind))
      best = std::max(best, peak.operations_per_second);
  }
  return best;
}

double MachineLimits::operations_per_second(WeightFormat weights) const {
  const WeightFormat units = IsInteger(weights) ? WeightFormat::kInt8 : weights;
  return std::max(operations_per_second("f32"), operations_per_second(Name(units)));
}

namespace {

CudaMeasurement cuda_measurement = nullptr;

}  // namespace

void SetCudaMeasurement(CudaMeasurement measurement) { cuda_measurement = measurement; }

absl::StatusOr<MachineLimits> MeasureMachine(const MachineOptions& options) {
  if (absl::StartsWith(options.device, "cuda"))
    return cuda_measurement == nullptr ? WithoutCuda() : cuda_measurement(options);
  if (options.threads < 0 || options.threads > cpu::kMaxThreads) {
    return absl::InvalidArgumentError(absl::StrCat("threads: ", options.threads));
  }
  absl::StatusOr<cpu::CpuFeatures> features = cpu::DetectCpuFeatures("auto");
  if (!features.ok()) return features.status();
  MachineLimits limits;
  limits.threads = options.threads > 0 ? options.threads : cpu::AvailableProcessors();
  limits.l2_bytes = cpu::CacheBytes(_SC_LEVEL2_CACHE_SIZE);
  limits.l3_bytes = cpu::CacheBytes(_SC_LEVEL3_CACHE_SIZE);
  // Beyond a last-level cache four times over where memory permits: neighbours share it.
  const int64_t beyond = std::max(cpu::kLargestRead, 4 * limits.l3_bytes) / 4096 * 4096;
  const int64_t largest = options.largest_read_bytes > 0 ? options.largest_read_bytes : beyond;
  absl::StatusOr<Buffer> buffer = AllocateHost(static_cast<size_t>(largest));
  if (!buffer.ok()) return buffer.status();
  std::memset(buffer->data(), 1, buffer->bytes());
  cpu::Measurement measurement(*features, limits.threads);
  std::vector<bool> thread_choices = {true};
  if (!options.brief && limits.threads > 1) thread_choices = {false, true};
  for (int64_t bytes = cpu::kSmallestRead; bytes < largest && !options.brief; bytes *= 2) {
    for (const bool all : thread_choices)
      limits.reads.push_back(measurement.Read(*buffer, bytes, all));
  }
  for (const bool all : thread_choices)
    limits.reads.push_back(measurement.Read(*buffer, largest, all));
  for (const cpu::Unit& unit : cpu::Units(*features)) {
    for (const bool all : thread_choices) limits.peaks.push_back(measurement.Peak(unit, all));
  }
  limits.handover_seconds = measurement.HandOver();
  return limits;
}

}  // namespace sluice::kernels
