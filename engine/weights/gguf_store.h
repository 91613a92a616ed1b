// The tensors of a GGUF file under the names that the mappings know. Plain numbers are read as they
// stand, blocks (ggml_blocks.h) as f32. Not for choosing the names
// (engine/architectures/gguf_model.h).
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "engine/weights/gguf.h"
#include "engine/weights/model_file.h"
#include "engine/weights/weight_store.h"

namespace sluice {

// A tensor of the file under a name. With "{e}" in the name it is found as one tensor for each of
// the outermost dimension; they are never listed, so that a small file cannot ask for millions.
struct GgufPart {
  std::string name;
  size_t tensor = 0;  // index in GgufContents::tensors
  std::vector<int64_t> shape;
};

class GgufStore : public WeightStore {
 public:
  // A tensor of the file that Find was never asked for, or not for all of it; null if there is
  // none. A model that never asks ignores numbers that were meant to count.
  virtual const GgufTensor* NeverFound() const = 0;
};

// Names are unique.
std::unique_ptr<GgufStore> MakeGgufStore(ModelFile file,
                                         std::vector<GgufTensor> tensors,
                                         std::vector<GgufPart> parts);

}  // namespace sluice
