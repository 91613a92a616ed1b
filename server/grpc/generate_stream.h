// One Generate call between the engine and its client: a bounded queue of events, one write in
// flight, pause when the queue is full, cancel when the reader stalls. Written against
// StreamWriter, so that it knows nothing of gRPC. All methods but the sinks' run on the
// dispatcher's thread.
#pragma once

#include <deque>
#include <memory>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "engine/engine_client.h"
#include "server/auth/authenticator.h"
#include "server/grpc/dispatcher.h"
#include "server/grpc/request_conversion.h"

namespace sluice::server {

// The transport of one stream.
class StreamWriter {
 public:
  virtual ~StreamWriter() = default;
  // Ends in GenerateStream::OnWritten. At most one at a time.
  virtual void Write(const v1::GenerateResponse& response) = 0;
  // The last call. `usage` is null unless the call generated something.
  virtual void Finish(const absl::Status& status, const v1::Usage* usage) = 0;
  // Makes an outstanding write fail.
  virtual void Abort() = 0;
};

struct StreamOptions {
  size_t buffer_bytes = 256 << 10;
  absl::Duration slow_reader = absl::Seconds(30);
};

class GenerateStream : public std::enable_shared_from_this<GenerateStream> {
 public:
  // `engine`, `dispatcher` and `authenticator` outlive the stream.
  struct Parts {
    EngineClient& engine;
    Dispatcher& dispatcher;
    Authenticator& authenticator;
    Principal principal;
    GenerateCall call;
    std::string request_id;
    StreamOptions options;
  };
  explicit GenerateStream(Parts parts);

  // Submits all choices, or none: on an error those already submitted are cancelled and nothing is
  // ever written. Call once, before Attach.
  absl::Status Submit();
  // Starts writing to `writer`, which lives until its Finish returned. Any thread, once.
  void Attach(StreamWriter* writer);

  // From the transport, any thread.
  void OnWritten(bool ok);
  void OnClientGone(bool deadline_passed);

  // Final after StreamWriter::Finish was called.
  const Usage& usage() const { return usage_; }

 private:
  class Sink;
  struct Item {
    int32_t choice = 0;
    size_t bytes = 0;
    TokenEvent event;
  };

  void Enqueue(int32_t choice, TokenEvent event);
  void Pump();
  void Next();
  bool TakeResponse(v1::GenerateResponse& response) ABSL_LOCKS_EXCLUDED(mutex_);
  void FillResponse(Item& item, v1::GenerateResponse& response);
  void NoteFinish(const TokenEvent& event);
  void Charge(const TokenEvent& event);
  void UpdatePause(size_t queued_bytes);
  void CheckStall();
  void PostStallCheck(absl::Duration delay);
  void CancelAll(const char* reason);
  void End(const absl::Status& status);

  Parts parts_;

  absl::Mutex mutex_;
  std::deque<Item> queue_ ABSL_GUARDED_BY(mutex_);
  size_t queued_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  bool pump_posted_ ABSL_GUARDED_BY(mutex_) = false;
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;

  // Dispatcher thread only (ids_: Submit's until Attach).
  std::vector<RequestId> ids_;
  std::vector<bool> begun_;  // by choice: a response was built
  StreamWriter* writer_ = nullptr;
  bool writing_ = false;
  bool paused_ = false;
  bool ended_ = false;
  bool sent_first_ = false;
  int32_t unfinished_ = 0;
  absl::Status failure_;  // first error; the call ends with it once no write is in flight
  absl::Duration write_started_;
  Usage usage_;
};

}  // namespace sluice::server
