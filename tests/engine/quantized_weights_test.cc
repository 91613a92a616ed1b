// Blocks of a GGUF file become the bits that a plain decoder's numbers become, in matrices and in
// experts: however many rows are read at a time, and wherever a read ends.
#include <cstring>
#include <random>

#include "engine/blocks/weight_loader.h"
#include "engine/weights/gguf_store.h"
#include "gtest/gtest.h"
#include "kernels/backend_factory.h"
#include "tests/weights/file_fixture.h"
#include "tests/weights/gguf_bytes.h"

namespace sluice::testing {
namespace {

using kernels::Backend;
using kernels::PackedExperts;
using kernels::PackedMatrix;
using kernels::WeightFormat;
using kernels::WeightSource;

constexpr uint32_t kQ8_0 = 8;
constexpr int64_t kBlock = 32;
// Several tasks and several reads a task; experts of more than one slice, the last one narrower.
constexpr int64_t kRows = 700, kDim = 1024, kHidden = 288;
constexpr int32_t kExperts = 3;

// A tensor of blocks, and its numbers as the definition has them: d * q.
struct Q8Tensor {
  Q8Tensor(int64_t count, uint32_t seed) {
    std::mt19937 random(seed);
    for (int64_t block = 0; block < count / kBlock; ++block) {
      auto half = static_cast<uint16_t>(random() % 0x3C00);  // 0 up to 1, subnormals too
      if (random() % 4 == 0) half |= 0x8000;
      bytes += LittleEndian(half);
      for (int64_t i = 0; i < kBlock; ++i) {
        const auto q = static_cast<int8_t>(random());
        bytes += static_cast<char>(q);
        values.push_back(kernels::HalfToFloat(half) * static_cast<float>(q));
      }
    }
  }
  std::string bytes;
  std::vector<float> values;
};

std::string BytesOf(const PackedMatrix& matrix) {
  return {static_cast<const char*>(matrix.data), static_cast<size_t>(matrix.bytes())};
}

class QuantizedWeightsTest : public DirectoryTest,
                             public ::testing::WithParamInterface<const char*> {
 protected:
  void SetUp() override {
    DirectoryTest::SetUp();
    auto backend = kernels::CreateBackend({.device = "cpu", .threads = 2, .isa = GetParam()});
    if (absl::IsFailedPrecondition(backend.status())) GTEST_SKIP() << backend.status();
    ASSERT_TRUE(backend.ok()) << backend.status();
    backend_ = *std::move(backend);

    GgufParts parts;
    uint64_t offset = 0;
    const auto add = [&](const char* name, std::vector<uint64_t> shape, const Q8Tensor& tensor) {
      parts.infos += GgufInfo(name, shape, kQ8_0, offset);
      parts.values += tensor.bytes;
      parts.values.resize((parts.values.size() + 31) / 32 * 32);
      offset = parts.values.size();
      ++parts.num_tensors;
    };
    add("matrix", {kDim, kRows}, matrix_);
    add("gate", {kDim, kHidden, kExperts}, gate_);
    add("up", {kDim, kHidden, kExperts}, up_);
    add("down", {kHidden, kDim, kExperts}, down_);
    Write("m.gguf", parts.Bytes());
    auto file = ModelFile::Open(directory(), "m.gguf");
    ASSERT_TRUE(file.ok()) << file.status();
    const auto contents = ReadGguf(*file);
    ASSERT_TRUE(contents.ok()) << contents.status();
    store_ = MakeGgufStore(*std::move(file), contents->tensors,
                           {{"matrix", 0, {kRows, kDim}},
                            {"e.{e}.gate", 1, {kExperts, kHidden, kDim}},
                            {"e.{e}.up", 2, {kExperts, kHidden, kDim}},
                            {"e.{e}.down", 3, {kExperts, kDim, kHidden}}});
  }

  static WeightSource Expert(const Q8Tensor& tensor, int32_t expert, int64_t n, int64_t k) {
    return {tensor.values.data() + expert * n * k, kernels::DType::kF32, n, k};
  }

  const Q8Tensor matrix_{kRows * kDim, 1}, gate_{kExperts * kHidden * kDim, 2},
      up_{kExperts * kHidden * kDim, 3}, down_{kExperts * kHidden * kDim, 4};
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<GgufStore> store_;
};

TEST_P(QuantizedWeightsTest, MatricesHaveTheBitsOfThePlainDecoder) {
  for (const WeightFormat format :
       {WeightFormat::kInt8, WeightFormat::kInt4, WeightFormat::kBF16, WeightFormat::kF32}) {
    WeightLoader loader(*store_, *backend_, format, nullptr);
    // From a row on, so that reads do not start where tasks do.
    const ProjectionSpec part{.in = kDim, .out = kRows - 5, .weight = "matrix", .row_begin = 5};
    const auto loaded = loader.Matrix(part);
    ASSERT_TRUE(loaded.ok()) << loaded.status();
    const WeightSource rest{matrix_.values.data() + 5 * kDim, kernels::DType::kF32, kRows - 5,
                            kDim};
    const auto expected = backend_->Pack({&rest, 1}, format);
    ASSERT_TRUE(expected.ok()) << expected.status();
    EXPECT_TRUE(BytesOf(*loaded) == BytesOf(*expected)) << Name(format);
  }
}

TEST_P(QuantizedWeightsTest, ExpertsHaveTheBitsOfThePlainDecoder) {
  for (const bool gated : {true, false}) {
    MoeFfnSpec spec;
    spec.router.num_experts = kExperts;
    spec.hidden = kHidden;
    spec.gated = gated;
    spec.experts.gate = gated ? "e.{e}.gate" : "";
    spec.experts.up = "e.{e}.up";
    spec.experts.down = "e.{e}.down";
    for (const WeightFormat format :
         {WeightFormat::kInt8, WeightFormat::kInt4, WeightFormat::kBF16, WeightFormat::kF32}) {
      WeightLoader loader(*store_, *backend_, format, nullptr);
      const auto loaded = loader.Experts(spec, kDim);
      ASSERT_TRUE(loaded.ok()) << loaded.status();
      PackedExperts expected = *backend_->AllocateExperts(kExperts, kDim, kHidden, gated, format);
      for (int32_t e = 0; e < kExperts; ++e) {
        const WeightSource up = Expert(up_, e, kHidden, kDim);
        const WeightSource down = Expert(down_, e, kDim, kHidden);
        backend_->PackExpert({.w1 = gated ? Expert(gate_, e, kHidden, kDim) : up,
                              .w3 = gated ? up : WeightSource{},
                              .w2 = down},
                             e, expected);
      }
      ASSERT_EQ(loaded->slices.size(), expected.slices.size());
      for (size_t i = 0; i < expected.slices.size(); ++i) {
        const auto& [w1, w3, w2] = expected.slices[i];
        EXPECT_TRUE(BytesOf(loaded->slices[i].w1) == BytesOf(w1)) << Name(format) << " w1 " << i;
        EXPECT_TRUE(BytesOf(loaded->slices[i].w3) == BytesOf(w3)) << Name(format) << " w3 " << i;
        EXPECT_TRUE(BytesOf(loaded->slices[i].w2) == BytesOf(w2)) << Name(format) << " w2 " << i;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Isas, QuantizedWeightsTest, ::testing::Values("scalar", "avx2", "avx512"));

}  // namespace
}  // namespace sluice::testing
