#include "kernels/cuda/device_limits.h"

#include <cuda_runtime.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/device_memory.h"
#include "kernels/cuda/limit_kernels.h"
#include "kernels/repeated_timing.h"

namespace sluice::kernels::cuda {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int64_t kLargestRead = int64_t{1} << 30;  // eight times the largest L2 so far
constexpr int64_t kAlignment = 256;

struct Unit {
  ArithmeticUnit unit;
  const char* name;
};
// What the products of the backend are made of. On sm_90 and later wgmma and tcgen05 do more.
constexpr Unit kUnits[] = {{ArithmeticUnit::kF32, "f32 fma"},
                           {ArithmeticUnit::kBf16, "bf16 mma.sync m16n8k16"},
                           {ArithmeticUnit::kInt8, "int8 mma.sync m16n8k32"}};

// The host's clock around work that is queued and waited for: a timing is so long that the wait
// does not count.
class Measurement {
 public:
  explicit Measurement(const Device& device) : device_(device) {
    status_.Check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "a stream");
  }
  ~Measurement() {
    cudaFree(memory_);
    cudaStreamDestroy(stream_);
  }
  Measurement(const Measurement&) = delete;
  Measurement& operator=(const Measurement&) = delete;

  absl::Status Allocate(int64_t bytes) {
    void* memory = nullptr;
    // Behind the buffer the place that kernels say they write to.
    const auto size = static_cast<size_t>(bytes + kAlignment);
    const cudaError_t error = cudaMalloc(&memory, size);
    if (error == cudaErrorMemoryAllocation) {
      return absl::ResourceExhaustedError(
          absl::StrCat("GPU memory: no ", bytes >> 20, " MiB for the measurement"));
    }
    if (!status_.Check(error, "memory for the measurement")) return status_.status();
    memory_ = static_cast<unsigned char*>(memory);
    bytes_ = bytes;
    status_.Check(cudaMemsetAsync(memory_, 1, size, stream_), "filling the buffer");
    return status_.status();
  }

  ReadRate Read(int64_t bytes) {
    return {bytes, 1, Rate(static_cast<double>(bytes), [&] {
              return LaunchRead(memory_, bytes, device_.multiprocessors, Sink(), stream_);
            })};
  }

  // Half of the buffer to the other half, what is read and what is written counted.
  double Copy() {
    const int64_t half = bytes_ / 2;
    return Rate(2.0 * static_cast<double>(half), [&] {
      return cudaMemcpyAsync(memory_ + half, memory_, static_cast<size_t>(half),
                             cudaMemcpyDeviceToDevice, stream_);
    });
  }

  PeakRate Peak(const Unit& unit) {
    const double seconds = BestSeconds([&](int64_t repeats) {
      const ArithmeticCall call{.unit = unit.unit,
                                .rounds = repeats,
                                .multiprocessors = device_.multiprocessors,
                                .sink = Sink()};
      return status_.Check(LaunchArithmetic(call, stream_), unit.name) && Wait();
    });
    const double operations = OperationsPerRound(unit.unit, device_.multiprocessors);
    return {unit.name, 1, seconds > 0.0 ? operations / seconds : 0.0};
  }

  // Of one launch of many that follow each other without waiting, as ops do in a step.
  double Launches() {
    return Seconds([&] { return LaunchNothing(stream_); });
  }

  // Median of launches that are waited for one by one.
  double HandOver() {
    constexpr int kCalls = 1001;
    std::vector<double> seconds;
    for (int i = 0; i < kCalls; ++i) {
      const Clock::time_point begin = Clock::now();
      if (!status_.Check(LaunchNothing(stream_), "an empty kernel") || !Wait()) return 0.0;
      seconds.push_back(SecondsSince(begin));
    }
    std::nth_element(seconds.begin(), seconds.begin() + kCalls / 2, seconds.end());
    return seconds[kCalls / 2];
  }

  const absl::Status& status() const { return status_.status(); }

 private:
  float* Sink() { return reinterpret_cast<float*>(memory_ + bytes_); }

  bool Wait() { return status_.Check(cudaStreamSynchronize(stream_), "what is measured"); }

  // Of one launch; 0 when the device has failed.
  double Seconds(absl::FunctionRef<cudaError_t()> launch) {
    return BestSeconds([&](int64_t repeats) {
      for (int64_t i = 0; i < repeats; ++i) {
        if (!status_.Check(launch(), "what is measured")) return false;
      }
      return Wait();
    });
  }
  double Rate(double amount_per_launch, absl::FunctionRef<cudaError_t()> launch) {
    const double seconds = Seconds(launch);
    return seconds > 0.0 ? amount_per_launch / seconds : 0.0;
  }

  const Device& device_;
  cudaStream_t stream_ = nullptr;
  DeviceStatus status_;
  unsigned char* memory_ = nullptr;
  int64_t bytes_ = 0;
};

}  // namespace

absl::StatusOr<MachineLimits> MeasureDevice(const MachineOptions& options) {
  absl::StatusOr<Device> device = OpenDevice(options.device);
  if (!device.ok()) return device.status();
  const int64_t wanted = options.largest_read_bytes > 0 ? options.largest_read_bytes : kLargestRead;
  const int64_t largest = wanted / (2 * kAlignment) * (2 * kAlignment);
  Measurement measurement(*device);
  if (absl::Status status = measurement.Allocate(largest); !status.ok()) return status;
  MachineLimits limits{.device = device->description, .threads = 1, .l2_bytes = device->l2_bytes};
  const int64_t cached = device->l2_bytes / 2 / kAlignment * kAlignment;
  if (!options.brief && cached > 0 && cached < largest)
    limits.reads.push_back(measurement.Read(cached));
  limits.reads.push_back(measurement.Read(largest));
  if (!options.brief) limits.copy_bytes_per_second = measurement.Copy();
  for (const Unit& unit : kUnits) limits.peaks.push_back(measurement.Peak(unit));
  if (!options.brief) limits.launch_seconds = measurement.Launches();
  limits.handover_seconds = measurement.HandOver();
  if (!measurement.status().ok()) return measurement.status();
  return limits;
}

}  // namespace sluice::kernels::cuda
