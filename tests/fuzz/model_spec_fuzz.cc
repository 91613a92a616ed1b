// Any bytes as the JSON form of a spec: refused, or it survives a round trip; ValidateSpec takes
// whatever parses.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "engine/json_reader.h"
#include "engine/model/model_spec_json.h"
#include "kernels/check.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto json = sluice::ParseJson(text, {.max_depth = 32, .max_nodes = 20'000});
  if (!json.ok()) return 0;
  const auto spec = sluice::SpecFromJson(*json);
  if (!spec.ok()) return 0;
  const auto again = sluice::SpecFromJson(sluice::SpecToJson(*spec));
  SLUICE_CHECK(again.ok() && *again == *spec) << again.status().ToString();
  (void)sluice::ValidateSpec(*spec);
  return 0;
}
