// Everything that looks at the server instead of generating: health, models, version, routing,
// metrics, the API description, the front page.
#pragma once

#include "server/http/exchange.h"

namespace sluice::server {

asio::awaitable<HttpResponse> RunLive(Exchange& exchange);
asio::awaitable<HttpResponse> RunReady(Exchange& exchange);
asio::awaitable<HttpResponse> RunVersion(Exchange& exchange);
asio::awaitable<HttpResponse> RunModels(Exchange& exchange);
asio::awaitable<HttpResponse> RunModel(Exchange& exchange);
asio::awaitable<HttpResponse> RunRouting(Exchange& exchange);
asio::awaitable<HttpResponse> RunMetrics(Exchange& exchange);
asio::awaitable<HttpResponse> RunOpenApi(Exchange& exchange);
asio::awaitable<HttpResponse> RunFrontPage(Exchange& exchange);

}  // namespace sluice::server
