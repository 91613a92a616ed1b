// An HTTP/1 response from bytes that come in any pieces. No sockets.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"

namespace sluice::server {

class ResponseReader {
 public:
  ResponseReader();
  ~ResponseReader();
  ResponseReader(const ResponseReader&) = delete;
  ResponseReader& operator=(const ResponseReader&) = delete;

  // Calls `on_body` for each piece of the body, without chunk framing. InvalidArgument when this is
  // not HTTP. What follows the response is ignored.
  absl::Status Feed(std::string_view bytes, absl::FunctionRef<void(std::string_view)> on_body);
  // The connection has ended. DataLoss when the response had not.
  absl::Status End();

  int status() const;  // 0 until the head is complete
  bool is_done() const;

 private:
  class Parser;
  std::unique_ptr<Parser> parser_;
  std::string pending_;
};

}  // namespace sluice::server
