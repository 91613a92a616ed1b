// A server-side TLS context from PEM files: TLS 1.2 or newer.
#pragma once

#include <boost/asio/ssl/context.hpp>
#include <memory>
#include <string>

#include "absl/status/statusor.h"

namespace sluice::server {

// InvalidArgument names the file that cannot be used.
absl::StatusOr<std::shared_ptr<boost::asio::ssl::context>> LoadTlsContext(
    const std::string& certificate_file, const std::string& key_file);

}  // namespace sluice::server
