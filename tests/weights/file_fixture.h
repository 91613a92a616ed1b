// A scratch model directory and the bytes of small safetensors files, well-formed or not.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>

namespace sluice::testing {

// 8 bytes of length, the header, then `value_bytes` bytes 0, 1, 2, ...
inline std::string SafetensorsBytes(std::string_view header, size_t value_bytes) {
  std::string bytes;
  for (int i = 0; i < 8; ++i) bytes.push_back(static_cast<char>((header.size() >> (8 * i)) & 0xFF));
  bytes.append(header);
  for (size_t i = 0; i < value_bytes; ++i) bytes.push_back(static_cast<char>(i & 0xFF));
  return bytes;
}

class DirectoryTest : public ::testing::Test {
 protected:
  DirectoryTest() {
    const char* base = std::getenv("SLUICE_BUILD_DIR");
    const auto* test = ::testing::UnitTest::GetInstance()->current_test_info();
    std::string name = test->name();
    std::replace(name.begin(), name.end(), '/', '_');
    root_ = std::filesystem::path(base == nullptr ? "/tmp" : base) /
            ("scratch-" + name + "-" + std::to_string(::getpid()));
    std::filesystem::remove_all(root_);
    std::filesystem::create_directories(root_ / "model");
  }
  ~DirectoryTest() override {
    std::error_code ignored;
    std::filesystem::remove_all(root_, ignored);
  }

  std::filesystem::path Path(const std::string& name) const { return root_ / "model" / name; }
  std::string directory() const { return (root_ / "model").string(); }
  void Write(const std::string& name, std::string_view bytes) const {
    std::ofstream(Path(name), std::ios::binary)
        .write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  }

  std::filesystem::path root_;
};

}  // namespace sluice::testing
