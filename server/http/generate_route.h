// POST /v1/completions, /v1/chat/completions and /v1/embeddings: plan, submit, then collect or
// stream.
#pragma once

#include "server/http/exchange.h"

namespace sluice::server {

asio::awaitable<HttpResponse> RunCompletions(Exchange& exchange);
asio::awaitable<HttpResponse> RunChat(Exchange& exchange);
asio::awaitable<HttpResponse> RunEmbeddings(Exchange& exchange);

}  // namespace sluice::server
