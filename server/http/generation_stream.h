// The streaming half of a generation route: events to chunks, pings on silence, pausing and at last
// cancelling for a reader that does not keep up, cancelling when the client leaves.
#pragma once

#include <memory>

#include "server/http/exchange.h"
#include "server/http/generation_call.h"
#include "server/http/response_shape.h"
#include "server/http/sse_stream.h"

namespace sluice::server {

class GenerationStream {
 public:
  using ErrorFunction = absl::Status (*)(const TokenEvent&, const ServerCore&);

  GenerationStream(Exchange& exchange,
                   GenerationCall& call,
                   ResponseContext context,
                   ErrorFunction error_of);

  // Writes the whole response and fills the exchange's record. The caller keeps everything alive.
  asio::awaitable<void> Run();

 private:
  void SendHead();
  // False when the call has ended early: the client is gone, or the stream has failed.
  bool Deliver();
  void Fail(const absl::Status& error);
  void BalancePressure();
  void Abandon(absl::StatusCode code, const char* reason);
  absl::Duration NextDeadline() const;
  asio::awaitable<bool> Flush();

  Exchange& exchange_;
  GenerationCall& call_;
  const GenerationPlan& plan_;
  const ErrorFunction error_of_;
  const bool chunked_;
  SseStream sse_;
  std::unique_ptr<ResponseShape> shape_;
  UsageTotal usage_;
  bool paused_ = false;
  bool failed_ = false;
  bool abandoned_ = false;
};

}  // namespace sluice::server
