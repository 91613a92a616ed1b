#include "engine/architectures/generation_config.h"

#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/architectures/config_reader.h"
#include "engine/architectures/decoder_parts.h"
#include "engine/status_macros.h"
#include "nlohmann/json.hpp"

namespace sluice {
namespace {

using nlohmann::json;

constexpr char kGenerationFile[] = "generation_config.json";

// An empty object without the file.
absl::StatusOr<json> ReadGenerationFile(const std::string& directory) {
  absl::StatusOr<json> file = ReadConfigFile(directory, kGenerationFile);
  if (absl::IsNotFound(file.status())) return json::object();
  return file;
}

absl::Status NameFile(const std::string& directory, const absl::Status& status) {
  if (status.ok()) return status;
  return WithPath(absl::StrCat(directory, "/", kGenerationFile), status);
}

}  // namespace

absl::Status AddGenerationEos(const std::string& model_directory, ModelSpec& spec) {
  ASSIGN_OR_RETURN(const json file, ReadGenerationFile(model_directory));
  ConfigReader config(file);
  std::vector<int32_t>& ids = spec.eos_token_ids;
  for (const int32_t id : ReadEosTokenIds(config, spec.decoder().embedding.vocab_size)) {
    if (std::find(ids.begin(), ids.end(), id) == ids.end()) ids.push_back(id);
  }
  return NameFile(model_directory, config.status());
}

// The keys that vLLM takes (ModelConfig.get_diff_sampling_param), less max_new_tokens, which limits
// a whole server there and is a request's affair here. As there, do_sample says nothing:
// transformers samples only where it is true, so that a file that names end tokens alone would make
// every answer greedy. Other than there, a value counts that happens to be transformers' own (top_k
// 50): it stands in the file.
absl::StatusOr<SamplingDefaults> ReadSamplingDefaults(const std::string& model_directory) {
  ASSIGN_OR_RETURN(const json file, ReadGenerationFile(model_directory));
  ConfigReader config(file);
  // The ranges are those of requests (server/request_validation.cc; tests/model compares them):
  // another value would make the server refuse each request that leaves the field out.
  SamplingDefaults defaults;
  defaults.gives_temperature = config.Has("temperature");
  defaults.temperature = config.Number("temperature", 0.0, 2.0, defaults.temperature);
  defaults.top_p = config.Number("top_p", 0.0, 1.0, defaults.top_p);
  defaults.top_k = config.Int32("top_k", -1, std::numeric_limits<int32_t>::max(), defaults.top_k);
  defaults.min_p = config.Number("min_p", 0.0, 1.0, defaults.min_p);
  defaults.repetition_penalty =
      config.Number("repetition_penalty", 0.0, 10.0, defaults.repetition_penalty);
  // Ends that do not belong to a range, as the float that the sampler gets.
  const SamplingParams params = defaults.Params();
  if (params.top_p == 0.0f) config.Invalid("top_p", "must be above 0");
  if (params.min_p == 1.0f) config.Invalid("min_p", "must be below 1");
  if (params.repetition_penalty == 0.0f) config.Invalid("repetition_penalty", "must be above 0");
  RETURN_IF_ERROR(NameFile(model_directory, config.status()));
  return defaults;
}

}  // namespace sluice
