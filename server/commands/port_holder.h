// Says who listens on a TCP port of this machine, for the "port in use" message. Reads /proc; a
// process of another user is found but not named.
#pragma once

#include <optional>
#include <string>

namespace sluice::server {

// "process 123 (nginx)", "another process"; nothing when no socket listens on `port`.
std::optional<std::string> FindPortHolder(int port);

}  // namespace sluice::server
