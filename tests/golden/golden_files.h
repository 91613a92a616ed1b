// The golden folders: expected tensors by name, a model directory made from a foreign fixture, and
// what to run. Tests only.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace sluice {

struct ExpectedTensor {
  std::vector<int64_t> shape;
  std::vector<float> floats;      // F32 tensors
  std::vector<int32_t> integers;  // I32 and I64 tensors
};
using ExpectedTensors = std::map<std::string, ExpectedTensor>;

// Every tensor of one safetensors file.
absl::StatusOr<ExpectedTensors> ReadExpected(const std::string& directory, const std::string& name);

// The repository root and the folder of shared files beside it.
std::string SourceDirectory();
std::string SharedDirectory();

// A fresh empty directory under the build tree, removed by the destructor.
class ScratchDirectory {
 public:
  explicit ScratchDirectory(const std::string& name);
  ~ScratchDirectory();
  ScratchDirectory(const ScratchDirectory&) = delete;
  ScratchDirectory& operator=(const ScratchDirectory&) = delete;
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

// Writes config.json and model.safetensors of a folder of ../shared/goldens, whose config has other
// key names, in the form the server reads. Unimplemented for a format that has no such form,
// InvalidArgument or NotFound for a broken folder.
absl::Status WriteServedModel(const std::string& golden_directory, const std::string& out);
// Gives the expected tensors of such a folder the names that golden_check compares.
absl::Status RenameExpected(const std::string& golden_directory, ExpectedTensors& expected);

// No change when there is no tensor `from`.
void RenameTensor(const std::string& from, const std::string& to, ExpectedTensors& expected);

void WriteSafetensors(const ExpectedTensors& tensors, const std::string& path);

}  // namespace sluice
