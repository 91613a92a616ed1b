// Tokenizing and templates without generation: /tokenize, /detokenize, /apply-template,
// /tokenizer_info.
#pragma once

#include "server/http/exchange.h"

namespace sluice::server {

asio::awaitable<HttpResponse> RunTokenize(Exchange& exchange);
asio::awaitable<HttpResponse> RunDetokenize(Exchange& exchange);
asio::awaitable<HttpResponse> RunApplyTemplate(Exchange& exchange);
asio::awaitable<HttpResponse> RunTokenizerSummary(Exchange& exchange);

}  // namespace sluice::server
