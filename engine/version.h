// Which Sluice this is.
#pragma once

namespace sluice {

// "0.1.0", from CMake's project version.
const char* Version();

}  // namespace sluice
