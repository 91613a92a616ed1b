// The tensors of a GGUF file under the names that the mappings know. Plain numbers are read as they
// stand, blocks (ggml_blocks.h) as f32. Not for choosing the names (engine/architectures/gguf.h).
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "engine/weights/gguf.h"
#include "engine/weights/model_file.h"
#include "engine/weights/weight_store.h"

namespace sluice {

// A tensor of the file, or a run of its rows, under a name.
struct GgufPart {
  std::string name;
  size_t tensor = 0;  // index in GgufContents::tensors
  int64_t first = 0;  // element, the first of a row
  std::vector<int64_t> shape;
};

std::unique_ptr<WeightStore> MakeGgufStore(ModelFile file,
                                           std::vector<GgufTensor> tensors,
                                           std::vector<GgufPart> parts);

}  // namespace sluice
