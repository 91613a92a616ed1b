// POST /v1/completions and /v1/chat/completions: plan, submit, then collect or stream.
#pragma once

#include "server/http/exchange.h"

namespace sluice::server {

asio::awaitable<HttpResponse> RunCompletions(Exchange& exchange);
asio::awaitable<HttpResponse> RunChat(Exchange& exchange);

}  // namespace sluice::server
