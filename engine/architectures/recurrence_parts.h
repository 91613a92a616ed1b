// What the families whose rows stop at different depths share: the config keys of ExitSpec and
// RepeatKv. README.md, "Rows that stop".
#pragma once

#include "engine/architectures/config_reader.h"
#include "engine/model/model_spec.h"

namespace sluice {

// The key `halted_kv`: latest, own or compute_all.
RepeatKv ReadHaltedKv(ConfigReader& config, RepeatKv fallback);

// Keys that say how the published code runs; any other value than the one served is refused.
struct OnlyValue {
  const char* key;
  const char* value;
};
void RefuseOtherValues(ConfigReader& config, const std::vector<OnlyValue>& only);
// The same for switches that must be off.
void RefuseSwitches(ConfigReader& config, const std::vector<const char*>& keys);

}  // namespace sluice
