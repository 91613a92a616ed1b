#include <array>

#include "server/http/admin_routes.h"
#include "server/http/exchange.h"
#include "server/http/generate_route.h"
#include "server/http/text_routes.h"

namespace sluice::server {
namespace {

constexpr auto kOpen = Access::kOpen;
constexpr auto kKey = Access::kKey;
constexpr auto kAdmin = Access::kAdmin;

// Method, path, access, needs engine, on metrics listener, metrics label, function.
constexpr std::array kRoutes = {
    Route{"POST", "/v1/completions", kKey, true, false, Api::kCompletions, &RunCompletions},
    Route{"POST", "/v1/chat/completions", kKey, true, false, Api::kChat, &RunChat},
    Route{"POST", "/v1/embeddings", kKey, true, false, Api::kEmbeddings, &RunEmbeddings},
    Route{"GET", "/v1/models", kKey, true, false, Api::kModels, &RunModels},
    Route{"GET", "/v1/models/{model}", kKey, true, false, Api::kModels, &RunModel},
    Route{"GET", "/v1/routing", kAdmin, true, false, Api::kRouting, &RunRouting},
    Route{"POST", "/tokenize", kKey, true, false, Api::kTokenize, &RunTokenize},
    Route{"POST", "/detokenize", kKey, true, false, Api::kDetokenize, &RunDetokenize},
    Route{"POST", "/apply-template", kKey, true, false, Api::kTokenize, &RunApplyTemplate},
    Route{"GET", "/tokenizer_info", kKey, true, false, Api::kTokenize, &RunTokenizerSummary},
    Route{"GET", "/health", kOpen, false, true, Api::kOther, &RunReady},
    Route{"GET", "/health/live", kOpen, false, true, Api::kOther, &RunLive},
    Route{"GET", "/health/ready", kOpen, false, true, Api::kOther, &RunReady},
    Route{"GET", "/version", kKey, false, false, Api::kOther, &RunVersion},
    Route{"GET", "/metrics", kKey, false, true, Api::kOther, &RunMetrics},
    Route{"GET", "/openapi.json", kKey, false, false, Api::kOther, &RunOpenApi},
    Route{"GET", "/", kOpen, false, false, Api::kOther, &RunFrontPage},
};

}  // namespace

std::span<const Route> Routes() { return kRoutes; }

}  // namespace sluice::server
