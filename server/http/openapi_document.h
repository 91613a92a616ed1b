// The document behind /openapi.json, written from the routing table and the table of request
// fields.
#pragma once

#include <string>

#include "nlohmann/json.hpp"

namespace sluice::server {

nlohmann::json OpenApiDocument(const std::string& version);

}  // namespace sluice::server
