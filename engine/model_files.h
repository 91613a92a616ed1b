// Everything that a model's files say: weights, spec, tokenizer, chat template, sampling. A model
// is a directory in the layout of Hugging Face, or one GGUF file. Reads headers and small files
// only; the weights are read when something is packed.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "engine/model/model_spec.h"
#include "engine/request.h"
#include "engine/text/chat_template.h"
#include "engine/text/tokenizer.h"
#include "engine/weights/weight_store.h"

namespace sluice {

struct ModelFiles {
  std::unique_ptr<WeightStore> weights;
  ModelSpec spec;
  // A model can be inspected without them.
  absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer;
  absl::StatusOr<std::unique_ptr<ChatTemplate>> chat_template;
  absl::StatusOr<SamplingDefaults> sampling_defaults;
  int64_t weight_file_bytes = 0;

  // `path` names a directory or a .gguf file. Checks the manifest beside the files first, if there
  // is one or it is required. Messages name the file.
  static absl::StatusOr<ModelFiles> Open(const std::string& path, bool require_manifest);
};

// "models/tiny-mod/" is "tiny-mod", "a/b.gguf" is "b".
std::string ModelNameOfPath(const std::string& path);

}  // namespace sluice
