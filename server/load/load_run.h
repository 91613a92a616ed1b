// A load on a server: first one request that finds out what it accepts, then warm-up, then the
// measured requests, in an open loop (Poisson arrivals) or a closed one (a fixed number of
// clients). One thread; SIGINT and SIGTERM end it early with what there is.
#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/signal_set.hpp>
#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "server/http/asio.h"
#include "server/load/http_exchange.h"
#include "server/load/prompt_source.h"
#include "server/load/request_record.h"

namespace sluice::server {

struct LoadPlan {
  std::string model;     // empty: the first that the server lists
  int32_t requests = 0;  // measured
  int32_t warmup_requests = 0;
  double rate = 0.0;        // per second; 0: closed loop
  int32_t concurrency = 0;  // clients of the closed loop
  int32_t output_tokens = 0;
  uint64_t seed = 0;
};

// What the first request taught.
struct ServerTraits {
  std::string model;
  bool takes_ignore_eos = true;
  bool takes_include_usage = true;
  bool counts_tokens = true;
};

struct LoadMeasurement {
  std::vector<RequestRecord> records;  // of those that were sent, in the order of their ends
  absl::Duration elapsed;              // from the first request's time to the last one's end
  absl::Duration generator_cpu;        // of this process meanwhile
  int32_t most_in_flight = 0;
  bool interrupted = false;
};

class LoadRun {
 public:
  LoadRun(LoadTarget target, LoadPlan plan, PromptSource prompts);

  // Resolves the address and asks a first time. InvalidArgument, Unavailable, or Cancelled after a
  // signal.
  absl::StatusOr<ServerTraits> Probe();
  // After a successful Probe.
  LoadMeasurement Measure();

 private:
  absl::Status Resolve();
  absl::StatusOr<std::string> FirstModel();
  // One request that is not counted.
  RequestRecord Try(const ServerTraits& traits);
  std::string Body(int64_t index) const;
  absl::Duration Now() const;

  // Runs coroutines until all have ended.
  void RunAll();
  void Start(asio::awaitable<void> work);
  void Interrupt();
  asio::awaitable<void> Send(int64_t index, absl::Duration due);
  asio::awaitable<void> Client(int64_t* next, int64_t end);
  asio::awaitable<void> Arrive(std::vector<absl::Duration> arrivals);

  LoadTarget target_;
  const LoadPlan plan_;
  PromptSource prompts_;
  ServerTraits traits_;
  asio::io_context io_{1};
  asio::signal_set signals_{io_, SIGINT, SIGTERM};
  asio::steady_timer arrival_timer_{io_};
  std::set<std::shared_ptr<HttpExchange>> exchanges_;  // under way
  std::vector<RequestRecord> records_;
  absl::Duration origin_;
  int32_t num_running_ = 0;  // coroutines
  int32_t most_in_flight_ = 0;
  bool interrupted_ = false;
};

}  // namespace sluice::server
