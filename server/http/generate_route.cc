#include "server/http/generate_route.h"

#include <algorithm>
#include <utility>

#include "absl/time/clock.h"
#include "engine/status_macros.h"
#include "server/generation_error.h"
#include "server/http/generation_call.h"
#include "server/http/generation_plan.h"
#include "server/http/generation_stream.h"
#include "server/http/openai_errors.h"
#include "server/http/response_shape.h"

namespace sluice::server {
namespace {

using Planner = absl::StatusOr<GenerationPlan> (*)(std::string_view, const PlanContext&);

// Watches for the client's leaving while a call runs.
class WatchScope {
 public:
  WatchScope(Connection& connection, AsyncSignal& wake) : connection_(connection) {
    connection_.set_watcher(&wake);
  }
  ~WatchScope() { connection_.set_watcher(nullptr); }
  WatchScope(const WatchScope&) = delete;
  WatchScope& operator=(const WatchScope&) = delete;

 private:
  Connection& connection_;
};

int64_t PromptTokens(const GenerationPlan& plan) {
  int64_t total = 0;
  for (const PromptPlan& prompt : plan.prompts) {
    total += static_cast<int64_t>(prompt.tokens.size());
  }
  return total;
}

absl::Status ErrorOf(const TokenEvent& event, const ServerCore& core) {
  return GenerationError(event, core.draining());
}

HttpResponse ClientGone(Exchange& exchange) {
  HttpResponse response;
  response.status = 499;
  response.code = absl::StatusCode::kCancelled;
  exchange.keep_alive = false;
  return response;
}

asio::awaitable<HttpResponse> Collect(Exchange& exchange,
                                      const GenerationPlan& plan,
                                      GenerationCall& call,
                                      ResponseContext context) {
  std::unique_ptr<ResponseShape> shape = MakeResponseShape(std::move(context));
  const auto choices = static_cast<size_t>(plan.choices);
  std::vector<TokenEvent> results(plan.prompts.size() * choices);
  UsageTotal usage;
  while (!call.finished()) {
    co_await call.wake().Wait();
    if (exchange.connection.disconnected()) {
      call.Cancel("disconnect");
      co_return ClientGone(exchange);
    }
    for (ChoiceEvent& item : call.Take()) {
      const absl::Status error = ErrorOf(item.event, exchange.core);
      if (!error.ok()) {
        call.Cancel("sibling_failed");
        co_return ErrorResponse(error);
      }
      if (item.event.finish != FinishReason::kNone) {
        usage.Add(item.event.usage, item.choice % choices == 0);
      }
      exchange.record.completion_tokens += static_cast<int64_t>(item.event.tokens.size());
      Accumulate(results[item.choice], std::move(item.event));
    }
  }
  exchange.record.completion_tokens = usage.completion_tokens();
  HttpResponse response;
  response.body = Dump(shape->Whole(results, usage));
  co_return response;
}

asio::awaitable<absl::StatusOr<GenerationPlan>> MakePlan(Exchange& exchange, Planner planner) {
  ServerCore& core = exchange.core;
  PlanContext context{.engine = *core.engine(),
                      .strict_fields = core.options.strict_fields,
                      .allow_routing_trace = core.options.allow_routing_trace,
                      .fresh_seed = core.random() >> 1};
  context.count_unknown_field = [&core] { core.CountUnknownField(); };
  context.check_model = [&exchange](std::string_view model) {
    return Authenticator::CheckModel(exchange.principal, model);
  };
  absl::StatusOr<GenerationPlan> plan;
  auto job = [&] { plan = planner(exchange.request.body, context); };
  co_await core.text.Run(job);
  exchange.connection.ReleaseBody(exchange.parser);
  co_return plan;
}

asio::awaitable<HttpResponse> RunPlan(Exchange& exchange, const GenerationPlan& plan) {
  ServerCore& core = exchange.core;
  EngineClient& engine = *core.engine();
  GenerationCall call(engine, exchange.connection.executor());
  const WatchScope watch(exchange.connection, call.wake());
  const absl::Status submitted = call.Submit(plan);
  if (!submitted.ok()) {
    core.authenticator->Charge(exchange.principal, -PromptTokens(plan));  // nothing ran
    co_return ErrorResponse(submitted);
  }
  exchange.record.prompt_tokens = PromptTokens(plan);
  ResponseContext context{.plan = plan,
                          .engine = engine,
                          .request_id = exchange.record.request_id,
                          .created_seconds = absl::ToUnixSeconds(absl::Now())};
  HttpResponse response;
  if (plan.stream) {
    GenerationStream stream(exchange, call, std::move(context), &ErrorOf);
    co_await stream.Run();
  } else {
    response = co_await Collect(exchange, plan, call, std::move(context));
  }
  core.authenticator->Charge(exchange.principal, exchange.record.completion_tokens);
  co_return response;
}

asio::awaitable<HttpResponse> Generate(Exchange& exchange, Planner planner) {
  const absl::StatusOr<GenerationPlan> plan = co_await MakePlan(exchange, planner);
  if (!plan.ok()) co_return ErrorResponse(plan.status());
  if (exchange.connection.disconnected()) co_return ClientGone(exchange);
  const absl::Status admitted =
      exchange.core.authenticator->Admit(exchange.principal, PromptTokens(*plan));
  if (!admitted.ok()) co_return ErrorResponse(admitted);
  co_return co_await RunPlan(exchange, *plan);
}

}  // namespace

asio::awaitable<HttpResponse> RunCompletions(Exchange& exchange) {
  return Generate(exchange, &PlanCompletion);
}

asio::awaitable<HttpResponse> RunChat(Exchange& exchange) { return Generate(exchange, &PlanChat); }

asio::awaitable<HttpResponse> RunEmbeddings(Exchange& exchange) {
  return Generate(exchange, &PlanEmbedding);
}

}  // namespace sluice::server
