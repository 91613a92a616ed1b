// A GGUF file in the words of the mappings: its metadata as a config.json, its tensors under the
// names of the published checkpoints (key and tensor names: ggml-org/llama.cpp gguf-py/gguf/
// constants.py, tensor_mapping.py). The mapping of the family then runs as for a directory. A key
// or a tensor that the tables here do not know is refused: it may change what the model computes.
#pragma once

#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/model/model_spec.h"
#include "engine/weights/gguf.h"
#include "engine/weights/gguf_store.h"
#include "engine/weights/model_file.h"
#include "engine/weights/weight_store.h"
#include "nlohmann/json.hpp"

namespace sluice {

// What llama.cpp calls the architecture, and what its files leave out.
struct GgufFamily {
  const char* architecture;
  const char* model_type;
  // Rows of q and k stand so that neighbours rotate together (convert_hf_to_gguf.py, permute).
  bool interleaved_rope = false;
  bool renormalizes_experts = false;  // norm_topk_prob
  // Without a width of one expert, the width of a dense FFN is that of all a row takes.
  bool shares_hidden = false;
  // As a config.json says it; null where there are none.
  const char* expert_hidden = nullptr;
};

// InvalidArgument or Unimplemented naming the key.
absl::StatusOr<GgufFamily> FindGgufFamily(const GgufMetadata& metadata);
absl::StatusOr<nlohmann::json> GgufConfig(const GgufContents& contents, const GgufFamily& family);
absl::StatusOr<std::vector<GgufPart>> NameGgufTensors(const std::vector<GgufTensor>& tensors,
                                                      const GgufFamily& family);

// What ends a text: the ids of the end of text, turn and message, and the tokens that are known to
// be one by what they say, for files name one end of several. Ascending.
absl::StatusOr<std::vector<int64_t>> GgufEndTokens(const GgufMetadata& metadata,
                                                   int64_t vocab_size);

struct GgufModel {
  GgufMetadata metadata;
  std::unique_ptr<WeightStore> weights;
  ModelSpec spec;
};

// Messages start with the file's path.
absl::StatusOr<GgufModel> LoadGgufModel(ModelFile file);

}  // namespace sluice
