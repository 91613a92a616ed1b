// The oneDNN family: one matmul primitive per depth, always called with the same number of rows, so
// that the bits of a row do not depend on the others. The only file that includes dnnl.hpp.
#include "kernels/cpu/gemm_select.h"

#if defined(SLUICE_WITH_ONEDNN)

#include <dlfcn.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <mutex>
#include <oneapi/dnnl/dnnl.hpp>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kernels/check.h"
#include "kernels/cpu/packed_layout.h"
#include "kernels/int8.h"

namespace sluice::kernels::cpu {
namespace {

using dnnl::memory;

constexpr int64_t kRows = 32;

// oneDNN's OpenMP runtime must not start threads beside our pool. Set once per calling thread.
void UseOneThread() {
  thread_local const bool done = [] {
    using SetThreads = void (*)(int);
    auto set = reinterpret_cast<SetThreads>(dlsym(RTLD_DEFAULT, "omp_set_num_threads"));
    if (set != nullptr) set(1);
    return true;
  }();
  static_cast<void>(done);
}

const dnnl::engine& CpuEngine() {
  static const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  return engine;
}

struct Product {
  dnnl::matmul::primitive_desc description;
  dnnl::matmul primitive;
};

template <WeightFormat kFormat>
const Product& ProductFor(int64_t depth) {
  static std::mutex mutex;
  static std::map<int64_t, Product> products;
  const std::lock_guard<std::mutex> lock(mutex);
  auto found = products.find(depth);
  if (found != products.end()) return found->second;
  using Type = memory::data_type;
  using Tag = memory::format_tag;
  constexpr bool kInt8 = kFormat == WeightFormat::kInt8;
  constexpr bool kF32 = kFormat == WeightFormat::kF32;
  const auto type = kInt8 ? Type::s8 : (kF32 ? Type::f32 : Type::bf16);
  const auto tag = kInt8 ? Tag::BA16a64b4a : (kF32 ? Tag::BA16a64b : Tag::BA16a64b2a);
  const memory::desc a({kRows, depth}, kInt8 ? Type::u8 : type, Tag::ab);
  const memory::desc b({depth, kBlockColumns}, type, tag);
  const memory::desc c({kRows, kBlockColumns}, kInt8 ? Type::s32 : Type::f32, Tag::ab);
  const dnnl::matmul::desc operation(a, b, c);
  // A primitive's own scratchpad must not be used by two threads; each brings its own.
  dnnl::primitive_attr attributes;
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  const dnnl::matmul::primitive_desc description(operation, attributes, CpuEngine());
  return products.emplace(depth, Product{description, dnnl::matmul(description)}).first->second;
}

// The int32 sums in `c`, of inputs plus 128, become f32, see GemmTile.
void FinishInt8(const GemmTile& tile, const float* c) {
  for (int64_t i = 0; i < tile.rows * kBlockColumns; ++i) {
    int32_t sum = 0;
    std::memcpy(&sum, c + i, sizeof(sum));
    const int64_t column = i % kBlockColumns;
    tile.c[i] = Int8Product(sum - tile.b_sum[column], tile.a_scale[i / kBlockColumns],
                            tile.b_scale[column]);
  }
}

template <WeightFormat kFormat>
void OneDnnTile(const GemmTile& tile) {
  UseOneThread();
  const int64_t depth = RoundUp(tile.k, kBlockColumns);
  const int64_t size = ValueBytes(kFormat, 1);
  thread_local std::vector<float> a;
  thread_local std::vector<float> c(static_cast<size_t>(kRows * kBlockColumns));
  a.assign(static_cast<size_t>(kRows * depth), 0.0f);
  for (int64_t r = 0; r < tile.rows; ++r) {
    std::memcpy(reinterpret_cast<char*>(a.data()) + r * depth * size,
                static_cast<const char*>(tile.a) + r * tile.a_stride * size,
                static_cast<size_t>(tile.k * size));
  }
  try {
    const Product& product = ProductFor<kFormat>(depth);
    dnnl::stream stream(CpuEngine());
    memory source(product.description.src_desc(), CpuEngine(), a.data());
    memory weights(product.description.weights_desc(), CpuEngine(), const_cast<void*>(tile.b));
    memory target(product.description.dst_desc(), CpuEngine(), c.data());
    const memory::desc wanted = product.description.scratchpad_desc();
    thread_local std::vector<float> scratch;
    scratch.resize(std::max(scratch.size(), wanted.get_size() / sizeof(float) + 1));
    memory scratchpad(wanted, CpuEngine(), scratch.data());
    product.primitive.execute(stream, {{DNNL_ARG_SRC, source},
                                       {DNNL_ARG_WEIGHTS, weights},
                                       {DNNL_ARG_DST, target},
                                       {DNNL_ARG_SCRATCHPAD, scratchpad}});
    stream.wait();
  } catch (const dnnl::error& error) {
    SLUICE_CHECK(false) << "oneDNN: " << error.message;
  }
  if (kFormat == WeightFormat::kInt8) return FinishInt8(tile, c.data());
  std::memcpy(tile.c, c.data(), static_cast<size_t>(tile.rows * kBlockColumns) * sizeof(float));
}

// Not every processor has every product: bf16 needs AVX-512.
template <WeightFormat kFormat>
absl::StatusOr<GemmFamily> Family(GemmInputType input) {
  try {
    ProductFor<kFormat>(kBlockColumns);
  } catch (const dnnl::error& error) {
    return absl::UnimplementedError(absl::StrCat("oneDNN has no product of ", Name(kFormat),
                                                 " for this processor: ", error.message));
  }
  return GemmFamily{"onednn", input, kRows, &OneDnnTile<kFormat>, nullptr, nullptr, false};
}

}  // namespace

absl::StatusOr<GemmFamily> OneDnnGemm(WeightFormat format) {
  switch (format) {
    case WeightFormat::kF32:
      return Family<WeightFormat::kF32>(GemmInputType::kF32);
    case WeightFormat::kBF16:
      return Family<WeightFormat::kBF16>(GemmInputType::kBf16);
    case WeightFormat::kInt8:
    case WeightFormat::kInt4:  // made int8 before it comes here
      break;
  }
  return Family<WeightFormat::kInt8>(GemmInputType::kInt8Offset);
}

}  // namespace sluice::kernels::cpu

#else

#include "absl/status/status.h"

namespace sluice::kernels::cpu {

absl::StatusOr<GemmFamily> OneDnnGemm(WeightFormat /*format*/) {
  return absl::FailedPreconditionError("oneDNN is not built in (SLUICE_WITH_ONEDNN)");
}

}  // namespace sluice::kernels::cpu

#endif
