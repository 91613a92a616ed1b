// Weight files of other contents are told apart although few of their bytes are read.
#include "engine/weights/file_fingerprint.h"

#include <chrono>
#include <vector>

#include "tests/weights/file_fixture.h"

namespace sluice::testing {
namespace {

class FileFingerprintTest : public DirectoryTest {
 protected:
  // Of files of the given contents whose tensors have the given sizes, all with the same time, as
  // archives and image builders set it.
  std::string Of(const std::vector<std::string>& contents,
                 const std::vector<int64_t>& sizes,
                 std::filesystem::file_time_type time = {}) {
    std::vector<ModelFile> files;
    for (const std::string& content : contents) {
      const std::string name = "weights" + std::to_string(files.size());
      Write(name, content);
      std::filesystem::last_write_time(Path(name), time);
      absl::StatusOr<ModelFile> file = ModelFile::Open(directory(), name);
      EXPECT_TRUE(file.ok()) << file.status();
      if (file.ok()) files.push_back(*std::move(file));
    }
    std::vector<FileRange> ranges;
    int64_t offset = 0;
    for (const int64_t size : sizes) {
      ranges.push_back({.offset = offset, .bytes = size});
      offset += size;
    }
    const absl::StatusOr<std::string> fingerprint =
        FingerprintOf(files, std::vector<std::vector<FileRange>>(files.size(), ranges));
    EXPECT_TRUE(fingerprint.ok()) << fingerprint.status();
    return fingerprint.ok() ? *fingerprint : "";
  }
};

TEST_F(FileFingerprintTest, SeesEveryTensorOfOtherValues) {
  const std::vector<std::vector<int64_t>> models = {
      {3 << 20}, {8, 5 << 20, 100, 4096, 4097}, std::vector<int64_t>(9000, 700)};
  for (const std::vector<int64_t>& sizes : models) {
    size_t bytes = 0;
    for (const int64_t size : sizes) bytes += static_cast<size_t>(size);
    const std::string before(bytes, 'a');
    const std::string expected = Of({before}, sizes);
    EXPECT_EQ(expected, Of({before}, sizes));
    size_t offset = 0;
    for (size_t i = 0; i < sizes.size(); ++i) {
      const auto size = static_cast<size_t>(sizes[i]);
      if (sizes.size() < 100 || i % 997 == 0) {
        std::string after = before;
        after.replace(offset, size, std::string(size, 'b'));
        EXPECT_NE(expected, Of({after}, sizes)) << "tensor " << i << " of " << sizes.size();
      }
      offset += size;
    }
  }
}

TEST_F(FileFingerprintTest, SeesSizesTimesAndEveryFile) {
  const std::string a(5000, 'a'), b(5000, 'b');
  const std::vector<int64_t> sizes = {5000};
  const std::string expected = Of({a, a}, sizes);
  EXPECT_NE(expected, Of({a, b}, sizes));
  EXPECT_NE(expected, Of({b, a}, sizes));
  EXPECT_NE(expected, Of({a, a + "a"}, sizes));
  EXPECT_NE(expected, Of({a}, sizes));
  EXPECT_NE(Of({}, sizes), Of({a}, sizes));
  const std::string before = Of({a}, sizes);
  const auto later = std::filesystem::file_time_type() + std::chrono::nanoseconds(1);
  EXPECT_NE(before, Of({a}, sizes, later));
}

}  // namespace
}  // namespace sluice::testing
