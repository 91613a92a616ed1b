// What the path of a model may be.
#include "engine/model_files.h"

#include "gmock/gmock.h"
#include "tests/weights/file_fixture.h"

namespace sluice::testing {
namespace {

using ::testing::HasSubstr;

class ModelFilesTest : public DirectoryTest {
 protected:
  ModelFilesTest() {
    const char* root = std::getenv("SLUICE_SOURCE_DIR");
    std::filesystem::create_directory(root_ / "blobs");
    std::filesystem::copy_file(
        std::filesystem::path(root == nullptr ? "." : root) / "tests/golden_gguf/llama/model.gguf",
        root_ / "blobs" / "0a1b");
  }
  absl::Status Open(const std::string& name, bool require_manifest = false) {
    return ModelFiles::Open(Path(name).string(), require_manifest).status();
  }
};

TEST_F(ModelFilesTest, AGgufPathMayBeALinkOutOfItsDirectory) {
  std::filesystem::create_symlink("../blobs/0a1b", Path("m.gguf"));
  EXPECT_TRUE(Open("m.gguf").ok()) << Open("m.gguf");
  EXPECT_FALSE(Open("m.gguf", /*require_manifest=*/true).ok());
  // Its digest cannot be taken from there, and it is not passed over either.
  Write("manifest.json", R"({"sha256": {}})");
  EXPECT_FALSE(Open("m.gguf").ok());
}

TEST_F(ModelFilesTest, PathsThatNameNothingAreRefusedInOneLine) {
  std::filesystem::create_symlink("loop.gguf", Path("loop.gguf"));
  std::filesystem::create_symlink("nosuch", Path("broken.gguf"));
  for (const std::string& name :
       {std::string(300, 'a') + ".gguf", std::string("loop.gguf"), std::string("broken.gguf"),
        std::string("nosuch.gguf"), std::string("nosuch/m.gguf")}) {
    const absl::Status status = Open(name);
    ASSERT_FALSE(status.ok()) << name;
    EXPECT_THAT(std::string(status.message()), HasSubstr(directory()));
  }
}

}  // namespace
}  // namespace sluice::testing
