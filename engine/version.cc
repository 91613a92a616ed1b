#include "engine/version.h"

#ifndef SLUICE_VERSION
#define SLUICE_VERSION "0.0.0"
#endif

namespace sluice {

const char* Version() { return SLUICE_VERSION; }

}  // namespace sluice
