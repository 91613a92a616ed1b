#include "server/load/load_run.h"

#include <sys/resource.h>

#include <algorithm>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/redirect_error.hpp>
#include <csignal>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/clock.h"
#include "engine/json_reader.h"
#include "engine/status_macros.h"
#include "server/load/arrivals.h"
#include "server/load/completion_stream.h"

namespace sluice::server {
namespace {

constexpr size_t kMaxModelListBytes = 1 << 20;
// Chunks beyond one a token that are no sign of an endless answer: role, usage, end.
constexpr int64_t kSpareChunks = 64;

absl::Duration CpuTime() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return absl::DurationFromTimeval(usage.ru_utime) + absl::DurationFromTimeval(usage.ru_stime);
}

absl::Status StatusOf(const RequestRecord& record) {
  if (record.end == RequestEnd::kInterrupted) return absl::CancelledError("interrupted");
  return absl::UnavailableError(absl::StrCat(
      "the server does not answer as asked: ", Name(record.end), ": ", record.message));
}

// Of what a server may refuse, from all to nothing.
constexpr std::pair<bool, bool> kIgnoreEosAndUsage[] = {
    {true, true}, {false, true}, {true, false}, {false, false}};

}  // namespace

LoadRun::LoadRun(LoadTarget target, LoadPlan plan, PromptSource prompts)
    : target_(std::move(target)), plan_(std::move(plan)), prompts_(std::move(prompts)) {}

absl::Duration LoadRun::Now() const { return SteadyClock().Now() - origin_; }

std::string LoadRun::Body(int64_t index) const {
  std::string body = absl::StrCat(
      "{\"model\":", nlohmann::json(traits_.model).dump(), ",\"prompt\":", prompts_.Json(index),
      ",\"max_tokens\":", plan_.output_tokens, ",\"temperature\":0,\"stream\":true");
  if (traits_.takes_ignore_eos) absl::StrAppend(&body, ",\"ignore_eos\":true");
  if (traits_.takes_include_usage) {
    absl::StrAppend(&body, ",\"stream_options\":{\"include_usage\":true}");
  }
  return body + "}";
}

void LoadRun::Interrupt() {
  interrupted_ = true;
  arrival_timer_.cancel();
  for (const auto& exchange : exchanges_) exchange->Cancel();
}

void LoadRun::Start(asio::awaitable<void> work) {
  ++num_running_;
  asio::co_spawn(io_, std::move(work), [this](const std::exception_ptr& error) {
    if (error) std::rethrow_exception(error);  // memory, or the library's
    if (--num_running_ == 0) signals_.cancel();
  });
}

void LoadRun::RunAll() {
  signals_.async_wait([this](const boost::system::error_code& error, int) {
    if (!error) Interrupt();
  });
  io_.restart();
  io_.run();
}

asio::awaitable<void> LoadRun::Send(int64_t index, absl::Duration due) {
  if (interrupted_) co_return;  // between its start and this line
  const std::string bytes = RequestBytes(target_, "/v1/completions", Body(index));
  RequestRecord record;
  record.due = due;
  record.sent = Now();
  CompletionStream stream(record, plan_.output_tokens + kSpareChunks);
  const HttpExchange::OnBody on_body = [&](int status, std::string_view piece) {
    const bool is_new = stream.Feed(status, piece, Now());
    record.ended = Now();
    if (!stream.is_over()) {
      return is_new ? HttpExchange::BodyUse::kProgress : HttpExchange::BodyUse::kNothingNew;
    }
    return record.end == RequestEnd::kAnswered ? HttpExchange::BodyUse::kComplete
                                               : HttpExchange::BodyUse::kAbandon;
  };
  const auto exchange = std::make_shared<HttpExchange>(io_, target_);
  exchanges_.insert(exchange);
  most_in_flight_ = std::max(most_in_flight_, static_cast<int32_t>(exchanges_.size()));
  HttpExchange::Result result = co_await exchange->Run(bytes, on_body);
  exchanges_.erase(exchange);
  // A server that closes late has answered when it said so.
  if (result.end != RequestEnd::kAnswered || record.ended < record.sent) record.ended = Now();
  record.http_status = result.status;
  if (result.end == RequestEnd::kAnswered) {
    stream.End(result.status);
    // Of several addresses, the one that works from now on.
    if (target_.endpoints.size() > 1) target_.endpoints = {exchange->endpoint()};
  } else {
    record.end = result.end;
    record.message = std::move(result.message);
  }
  records_.push_back(std::move(record));
}

asio::awaitable<void> LoadRun::Client(int64_t* next, int64_t end) {
  while (!interrupted_ && *next < end) {
    const int64_t index = (*next)++;
    co_await Send(index, Now());
  }
}

asio::awaitable<void> LoadRun::Arrive(std::vector<absl::Duration> arrivals) {
  boost::system::error_code error;
  for (size_t i = 0; i < arrivals.size() && !interrupted_; ++i) {
    arrival_timer_.expires_at(
        std::chrono::steady_clock::time_point(absl::ToChronoNanoseconds(origin_ + arrivals[i])));
    co_await arrival_timer_.async_wait(asio::redirect_error(asio::use_awaitable, error));
    if (!interrupted_) Start(Send(static_cast<int64_t>(i), arrivals[i]));
  }
}

absl::Status LoadRun::Resolve() {
  boost::system::error_code error;
  asio::ip::tcp::resolver resolver(io_);
  const auto found = resolver.resolve(target_.address.host, target_.address.port, error);
  for (const auto& entry : found) target_.endpoints.push_back(entry.endpoint());
  if (error || target_.endpoints.empty()) {
    return absl::UnavailableError(
        absl::StrCat("--url: cannot resolve ", target_.address.host, ": ", error.message()));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> LoadRun::FirstModel() {
  constexpr char kPath[] = "/v1/models";
  const std::string bytes = RequestBytes(target_, kPath, "");
  std::string text;
  const HttpExchange::OnBody on_body = [&](int, std::string_view piece) {
    text.append(piece);
    return text.size() > kMaxModelListBytes ? HttpExchange::BodyUse::kAbandon
                                            : HttpExchange::BodyUse::kNothingNew;
  };
  HttpExchange::Result result;
  const auto exchange = std::make_shared<HttpExchange>(io_, target_);
  const auto ask = [&]() -> asio::awaitable<void> {
    exchanges_.insert(exchange);
    result = co_await exchange->Run(bytes, on_body);
    exchanges_.clear();
  };
  Start(ask());
  RunAll();
  if (result.end == RequestEnd::kInterrupted) return absl::CancelledError("interrupted");
  if (result.end != RequestEnd::kAnswered) {
    return absl::UnavailableError(absl::StrCat(kPath, ": ", result.message));
  }
  if (result.status != 200) {
    return absl::UnavailableError(absl::StrCat(kPath, ": the server answers ", result.status, ": ",
                                               ErrorMessage(text),
                                               "; --served-model-name skips this question"));
  }
  const auto json = ParseJson(text, JsonLimits{});
  const nlohmann::json* list = json.ok() && json->is_object() ? FindMember(*json, "data") : nullptr;
  if (list != nullptr && list->is_array() && !list->empty() && list->front().is_object()) {
    absl::StatusOr<std::string> id = ReadString(list->front(), "id");
    if (id.ok()) return id;
  }
  return absl::UnavailableError(
      absl::StrCat(kPath, ": no list of models; say which with --served-model-name"));
}

RequestRecord LoadRun::Try(const ServerTraits& traits) {
  traits_ = traits;
  records_.clear();
  origin_ = SteadyClock().Now();
  Start(Send(int64_t{plan_.requests} + plan_.warmup_requests, absl::ZeroDuration()));
  RunAll();
  if (records_.empty()) return {.end = RequestEnd::kInterrupted, .message = "interrupted"};
  return std::move(records_.front());
}

absl::StatusOr<ServerTraits> LoadRun::Probe() {
  RETURN_IF_ERROR(Resolve());
  ServerTraits traits{.model = plan_.model};
  if (traits.model.empty()) {
    ASSIGN_OR_RETURN(traits.model, FirstModel());
  }
  RequestRecord first_refusal;
  for (const auto& [ignore_eos, include_usage] : kIgnoreEosAndUsage) {
    traits.takes_ignore_eos = ignore_eos;
    traits.takes_include_usage = include_usage;
    RequestRecord record = Try(traits);
    if (record.end == RequestEnd::kAnswered) {
      traits.counts_tokens = record.completion_tokens.has_value();
      prompts_.Calibrate(record.prompt_tokens.value_or(0));
      traits_ = traits;
      return traits;
    }
    // 400 and 422 may mean a field; all else would be the same without it.
    const bool may_be_field = record.http_status == 400 || record.http_status == 422;
    if (record.end != RequestEnd::kHttpStatus || !may_be_field) return StatusOf(record);
    if (first_refusal.message.empty()) first_refusal = std::move(record);
  }
  return StatusOf(first_refusal);
}

LoadMeasurement LoadRun::Measure() {
  const auto run_clients = [this](int64_t first, int64_t count, int32_t clients) {
    int64_t next = first;
    origin_ = SteadyClock().Now();
    for (int64_t i = 0; i < std::min<int64_t>(clients, count); ++i) {
      Start(Client(&next, first + count));
    }
    if (count > 0) RunAll();
  };
  // As many at once as will be, where that is known.
  run_clients(plan_.requests, plan_.warmup_requests,
              plan_.rate > 0.0 ? plan_.warmup_requests : plan_.concurrency);
  records_.clear();
  most_in_flight_ = 0;
  const absl::Duration cpu = CpuTime();
  if (!interrupted_ && plan_.rate > 0.0) {
    std::vector<absl::Duration> arrivals = PoissonArrivals(plan_.rate, plan_.requests, plan_.seed);
    origin_ = SteadyClock().Now();
    Start(Arrive(std::move(arrivals)));
    RunAll();
  } else if (!interrupted_) {
    run_clients(0, plan_.requests, plan_.concurrency);
  }
  LoadMeasurement measurement{.records = std::move(records_),
                              .generator_cpu = CpuTime() - cpu,
                              .most_in_flight = most_in_flight_,
                              .interrupted = interrupted_};
  if (measurement.records.empty()) return measurement;
  absl::Duration start = absl::InfiniteDuration(), end = absl::ZeroDuration();
  for (const RequestRecord& record : measurement.records) {
    start = std::min(start, record.due);
    end = std::max(end, record.ended);
  }
  measurement.elapsed = end - start;
  return measurement;
}

}  // namespace sluice::server
