#include "engine/architectures/recurrence_parts.h"

#include "absl/strings/str_cat.h"

namespace sluice {

RepeatKv ReadHaltedKv(ConfigReader& config, RepeatKv fallback) {
  constexpr RepeatKv kKinds[] = {RepeatKv::kLatest, RepeatKv::kOwn, RepeatKv::kComputeAll};
  const std::vector<const char*> names = {"latest", "own", "compute_all", "ring"};
  size_t of_fallback = 0;
  while (kKinds[of_fallback] != fallback) ++of_fallback;
  const size_t chosen = config.Choice("halted_kv", names, of_fallback);
  if (chosen < std::size(kKinds)) return kKinds[chosen];
  // What an earlier row shows would depend on how many rows ran with it.
  config.Unimplemented("halted_kv", "one row of keys and values for all repeats");
  return fallback;
}

void RefuseOtherValues(ConfigReader& config, const std::vector<OnlyValue>& only) {
  for (const auto& [key, value] : only) {
    if (config.String(key, value) != value)
      config.Unimplemented(key, absl::StrCat("a value other than ", value));
  }
}

void RefuseSwitches(ConfigReader& config, const std::vector<const char*>& keys) {
  for (const char* key : keys) {
    if (config.Bool(key, false)) config.Unimplemented(key, "this switch");
  }
}

}  // namespace sluice
