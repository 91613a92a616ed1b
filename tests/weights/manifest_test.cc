#include "engine/weights/manifest.h"

#include "gmock/gmock.h"
#include "tests/weights/file_fixture.h"

namespace sluice::testing {
namespace {

using ::testing::HasSubstr;

class ManifestTest : public DirectoryTest {
 protected:
  // SHA-256 of "abc", FIPS 180-2 appendix B.1.
  static constexpr char kAbc[] = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

  void WriteManifest(const std::string& digests) {
    Write("manifest.json", R"({"sha256":)" + digests + "}");
  }
};

TEST_F(ManifestTest, IsOptionalUnlessRequired) {
  EXPECT_TRUE(VerifyManifest(directory(), false).ok());
  EXPECT_EQ(VerifyManifest(directory(), true).code(), absl::StatusCode::kNotFound);
}

TEST_F(ManifestTest, AcceptsTheRightDigest) {
  Write("model.safetensors", "abc");
  WriteManifest(std::string(R"({"model.safetensors":")") + kAbc + "\"}");
  EXPECT_TRUE(VerifyManifest(directory(), true).ok()) << VerifyManifest(directory(), true);
}

TEST_F(ManifestTest, FindsEverySingleBitFlip) {
  WriteManifest(std::string(R"({"model.safetensors":")") + kAbc + "\"}");
  for (size_t bit = 0; bit < 24; ++bit) {
    std::string bytes = "abc";
    bytes[bit / 8] = static_cast<char>(bytes[bit / 8] ^ (1 << (bit % 8)));
    Write("model.safetensors", bytes);
    EXPECT_EQ(VerifyManifest(directory(), false).code(), absl::StatusCode::kDataLoss) << bit;
  }
}

TEST_F(ManifestTest, FindsFilesThatAreMissingOrNotListed) {
  WriteManifest(std::string(R"({"model.safetensors":")") + kAbc + "\"}");
  EXPECT_EQ(VerifyManifest(directory(), true).code(), absl::StatusCode::kNotFound);
  Write("model.safetensors", "abc");
  Write("config.json", "{}");
  EXPECT_THAT(std::string(VerifyManifest(directory(), true).message()),
              HasSubstr("config.json: not listed"));
}

TEST_F(ManifestTest, RefusesMalformedManifests) {
  Write("model.safetensors", "abc");
  for (const char* digests : {"[]", "null", R"({"../x":"00"})", R"({"model.safetensors":"00"})",
                              R"({"model.safetensors":3})"}) {
    WriteManifest(digests);
    EXPECT_EQ(VerifyManifest(directory(), false).code(), absl::StatusCode::kInvalidArgument)
        << digests;
  }
}

}  // namespace
}  // namespace sluice::testing
