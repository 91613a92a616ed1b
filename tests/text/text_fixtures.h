// Files and small tokenizers shared by the tests of this folder.
#pragma once

#include <sys/stat.h>

#include <cstdlib>
#include <fstream>
#include <sstream>
#include <string>

#include "nlohmann/json.hpp"

namespace sluice {

// A path relative to the repository; "../shared/..." reaches data beside it, which may be absent.
inline std::string SourcePath(const std::string& relative) {
  const char* root = std::getenv("SLUICE_SOURCE_DIR");
  return std::string(root == nullptr ? "." : root) + "/" + relative;
}

inline bool FileExists(const std::string& path) {
  struct stat facts {};
  return ::stat(path.c_str(), &facts) == 0;
}

inline std::string ReadText(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::stringstream text;
  text << in.rdbuf();
  return text.str();
}

inline nlohmann::json ReadFixture(const std::string& name) {
  return nlohmann::json::parse(ReadText(SourcePath("tests/text/fixtures/" + name)));
}

// A byte-level BPE file: the 256 bytes, "<|end|>" (special, 256), and the merges a+a, aa+aa, b+c.
nlohmann::json SmallByteLevelFile();

// A deterministic generator (splitmix64), so that a failure can be repeated from its seed.
class TestRandom {
 public:
  explicit TestRandom(uint64_t seed) : state_(seed) {}
  uint64_t Next() {
    state_ += 0x9E3779B97F4A7C15u;
    uint64_t z = state_;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
  }
  size_t Below(size_t limit) { return static_cast<size_t>(Next() % limit); }

 private:
  uint64_t state_;
};

}  // namespace sluice
