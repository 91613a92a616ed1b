#include "server/http/admin_routes.h"

#include <utility>

#include "engine/request_error.h"
#include "server/http/openai_errors.h"
#include "server/http/openapi_document.h"

namespace sluice::server {
namespace {

using nlohmann::json;

HttpResponse JsonResponse(const json& body) {
  HttpResponse response;
  response.body = Dump(body);
  return response;
}

HttpResponse StatusWord(const char* word) {
  json body;
  body["status"] = word;
  return JsonResponse(body);
}

// What a sampling field means that a request leaves out.
json SamplingObject(const SamplingDefaults& defaults) {
  json object;
  object["temperature"] = defaults.temperature;
  object["top_p"] = defaults.top_p;
  object["top_k"] = defaults.top_k;
  object["min_p"] = defaults.min_p;
  object["repetition_penalty"] = defaults.repetition_penalty;
  return object;
}

json ModelObject(const ModelCard& card) {
  json meta;
  meta["family"] = card.family;
  meta["vocab_size"] = card.vocab_size;
  meta["parameters_total"] = card.parameters_total;
  meta["parameters_active"] = card.parameters_active;
  meta["layer_instances"] = card.num_layer_instances;
  meta["routed_layers"] = card.routed_layers;
  meta["routing_modes"] = card.routing_modes;
  meta["capacity_table"] = card.has_capacity_table;
  meta["experts_per_token"] = card.experts_per_token;
  meta["max_depth"] = card.max_depth;
  meta["embedding_size"] = card.embedding_size;  // 0: it generates
  meta["exit_threshold"] = card.has_exit_threshold;
  meta["cohort_size"] = card.cohort_size;
  meta["sampling_defaults"] = SamplingObject(card.sampling_defaults);
  json model;
  model["id"] = card.id;
  model["object"] = "model";
  model["created"] = 0;
  model["owned_by"] = "sluice";
  model["root"] = card.id;
  model["parent"] = nullptr;
  model["max_model_len"] = card.max_context_tokens;
  model["meta"] = std::move(meta);
  return model;
}

}  // namespace

asio::awaitable<HttpResponse> RunLive(Exchange&) { co_return StatusWord("live"); }

asio::awaitable<HttpResponse> RunReady(Exchange& exchange) {
  const absl::Status ready = exchange.core.CheckReady();
  co_return ready.ok() ? StatusWord("ready") : ErrorResponse(ready);
}

asio::awaitable<HttpResponse> RunVersion(Exchange& exchange) {
  json body;
  body["version"] = exchange.core.options.version;
  co_return JsonResponse(body);
}

asio::awaitable<HttpResponse> RunModels(Exchange& exchange) {
  json body;
  body["object"] = "list";
  body["data"] = json::array();
  const ModelCard& card = exchange.core.engine()->model();
  if (Authenticator::CheckModel(exchange.principal, card.id).ok()) {
    body["data"].push_back(ModelObject(card));
  }
  co_return JsonResponse(body);
}

asio::awaitable<HttpResponse> RunModel(Exchange& exchange) {
  const ModelCard& card = exchange.core.engine()->model();
  if (exchange.path_argument != card.id) {
    co_return ErrorResponse(RequestError(absl::StatusCode::kNotFound, "model_not_found", "model",
                                         "this model is not served here"));
  }
  const absl::Status allowed = Authenticator::CheckModel(exchange.principal, card.id);
  if (!allowed.ok()) co_return ErrorResponse(allowed);
  co_return JsonResponse(ModelObject(card));
}

asio::awaitable<HttpResponse> RunRouting(Exchange& exchange) {
  const MetricsSnapshot snapshot = exchange.core.engine()->Snapshot();
  json body = exchange.core.routing_view.Update(snapshot);
  body["model"] = exchange.core.engine()->model().id;
  co_return JsonResponse(body);
}

asio::awaitable<HttpResponse> RunMetrics(Exchange& exchange) {
  HttpResponse response;
  response.content_type = "text/plain; version=0.0.4; charset=utf-8";
  const auto& render = exchange.core.options.metrics_text;
  auto job = [&] {
    if (render) response.body = render();
  };
  co_await exchange.core.text.Run(job);  // streams do not wait for it
  co_return response;
}

asio::awaitable<HttpResponse> RunOpenApi(Exchange& exchange) {
  co_return JsonResponse(OpenApiDocument(exchange.core.options.version));
}

asio::awaitable<HttpResponse> RunFrontPage(Exchange&) {
  HttpResponse response;
  response.content_type = "text/html; charset=utf-8";
  response.fields.emplace_back("Content-Security-Policy", "default-src 'none'");
  response.body =
      "<!doctype html><html lang=\"en\"><title>Sluice</title><h1>Sluice</h1>"
      "<p>An inference server for sparse language models with the OpenAI API: "
      "<a href=\"/openapi.json\">/openapi.json</a>, <a href=\"/v1/models\">/v1/models</a>, "
      "<a href=\"/health/ready\">/health/ready</a>.</p></html>\n";
  co_return response;
}

}  // namespace sluice::server
