// The GGUF container, versions 2 and 3: metadata, tensor list, values (layout: ggml-org/ggml
// docs/gguf.md). Every count, length and offset is checked against the real file size before
// anything is allocated by it, so what is kept in memory is never larger than the file. Stricter
// than the reference: repeated keys and names, holes and trailing bytes are refused. Not for the
// meaning of keys (engine/architectures/gguf_model.h) and not for values (gguf_store.h).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/weights/ggml_blocks.h"
#include "engine/weights/gguf_metadata.h"
#include "engine/weights/model_file.h"

namespace sluice {

struct GgufTensor {
  std::string name;
  const GgmlBlockType* type = nullptr;
  std::vector<int64_t> shape;  // outermost first, as in safetensors
  int64_t offset = 0;          // from the start of the file
  int64_t bytes = 0;
};

struct GgufContents {
  GgufMetadata metadata;
  std::vector<GgufTensor> tensors;  // in file order
};

inline constexpr int64_t kMaxGgufTensors = 100'000;
inline constexpr int64_t kMaxGgufKeys = 10'000;

// InvalidArgument or Unimplemented with a message that starts with the file's path.
absl::StatusOr<GgufContents> ReadGguf(const ModelFile& file);

}  // namespace sluice
