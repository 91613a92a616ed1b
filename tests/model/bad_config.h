// One wrong value in a config.json of a golden folder, and what the refusal must say.
#pragma once

#include <ostream>

#include "nlohmann/json.hpp"

namespace sluice::testing {

using nlohmann::json;

struct BadConfig {
  const char* folder;
  const char* pointer;  // JSON pointer of the value to change
  json value;           // discarded: remove the key
  const char* message;
};

inline void PrintTo(const BadConfig& bad, std::ostream* out) {
  *out << bad.folder << " " << bad.pointer << " = "
       << (bad.value.is_discarded() ? "removed" : bad.value.dump());
}

inline const json kRemoved(json::value_t::discarded);

}  // namespace sluice::testing
