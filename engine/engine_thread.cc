#include "engine/engine_thread.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "engine/log.h"
#include "engine/request_error.h"
#include "engine/status_macros.h"

namespace sluice {

namespace {

// Submit bounds the queue before it accepts. The engine must not refuse what was accepted, although
// preempted sequences wait in the same queue.
EngineConfig WithoutQueueBounds(EngineConfig config) {
  config.max_queued_requests = std::numeric_limits<int32_t>::max();
  config.max_queued_tokens = std::numeric_limits<int64_t>::max() / 2;
  return config;
}

}  // namespace

EngineThread::EngineThread(const EngineConfig& config, LoadedModel model, const Clock& clock)
    : config_(config),
      card_(model.card),
      report_(std::move(model.report)),
      tokenizer_(std::move(model.tokenizer)),
      chat_template_(std::move(model.chat_template)),
      engine_({.config = WithoutQueueBounds(config),
               .card = std::move(model.card),
               .runner = std::move(model.runner),
               .tokenizer = tokenizer_.get(),
               .clock = &clock}),
      thread_([this] { Run(); }) {}

EngineThread::~EngineThread() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  thread_.join();
}

absl::StatusOr<RequestId> EngineThread::Submit(Request request, std::shared_ptr<TokenSink> sink) {
  RETURN_IF_ERROR(CheckAccepting());
  RETURN_IF_ERROR(CheckAdmissible(request, card_));
  RETURN_IF_ERROR(CheckAlone(request));
  std::vector<CohortMember> members;
  members.push_back({std::move(request), std::move(sink)});
  ASSIGN_OR_RETURN(const std::vector<RequestId> ids, Enqueue(std::move(members), false));
  return ids.front();
}

absl::StatusOr<std::vector<RequestId>> EngineThread::SubmitCohort(
    std::vector<CohortMember> members) {
  RETURN_IF_ERROR(CheckAccepting());
  RETURN_IF_ERROR(CheckCohortAdmissible(members, card_));
  RETURN_IF_ERROR(engine_.CheckCohortFits(members));
  return Enqueue(std::move(members), true);
}

absl::Status EngineThread::CheckAccepting() const {
  if (!healthy()) {
    return RequestError(absl::StatusCode::kUnavailable, "device_lost", "", "the engine has failed");
  }
  if (!draining()) return absl::OkStatus();
  return RequestError(absl::StatusCode::kUnavailable, "shutting_down", "",
                      "the server is shutting down");
}

absl::StatusOr<std::vector<RequestId>> EngineThread::Enqueue(std::vector<CohortMember> members,
                                                             bool cohort) {
  int64_t tokens = 0;
  for (const CohortMember& member : members)
    tokens += static_cast<int64_t>(member.request.prompt.size());
  const auto count = static_cast<int64_t>(members.size());
  absl::MutexLock lock(&mutex_);
  const int64_t mailed = mail_.num_requests();
  // An empty queue takes any prompt that fits the context: retrying would never help.
  const bool queue_empty = waiting_requests_ + mailed == 0;
  if ((!queue_empty && waiting_requests_ + mailed + count > config_.max_queued_requests) ||
      waiting_requests_ + mailed >= config_.max_queued_requests ||
      (!queue_empty && waiting_tokens_ + mailbox_tokens_ + tokens > config_.max_queued_tokens)) {
    return RequestError(absl::StatusCode::kResourceExhausted, "queue_full", "",
                        "the queue is full; retry later");
  }
  std::vector<RequestId> ids;
  for (int64_t i = 0; i < count; ++i) ids.push_back(RequestId{next_id_.fetch_add(1)});
  mailbox_tokens_ += tokens;
  num_active_.fetch_add(count);
  mail_.submissions.push_back({ids, std::move(members), cohort});
  return ids;
}

void EngineThread::Cancel(RequestId id, std::string reason) {
  absl::MutexLock lock(&mutex_);
  mail_.cancellations.push_back({id, std::move(reason)});
}

void EngineThread::CancelAll(std::string reason) {
  absl::MutexLock lock(&mutex_);
  mail_.cancel_all = std::move(reason);
}

void EngineThread::SetPaused(RequestId id, bool paused) {
  absl::MutexLock lock(&mutex_);
  mail_.pauses.push_back({id, paused});
}

bool EngineThread::TakeMail(Mail& mail) {
  absl::MutexLock lock(&mutex_);
  waiting_requests_ = engine_.num_waiting();
  waiting_tokens_ = engine_.num_queued_tokens();
  runnable_ = engine_.HasRunnable();
  // A waiting sequence may have a deadline, so an idle engine still looks up now and then.
  const absl::Duration patience =
      engine_.num_active() > 0 ? absl::Milliseconds(20) : absl::Seconds(1);
  mutex_.AwaitWithTimeout(absl::Condition(
                              +[](EngineThread* self) ABSL_NO_THREAD_SAFETY_ANALYSIS {
                                return self->runnable_ || self->stopping_ || !self->mail_.empty();
                              },
                              this),
                          patience);
  std::swap(mail, mail_);
  // What was mailed counts as waiting until the engine has taken it.
  waiting_tokens_ += mailbox_tokens_;
  mailbox_tokens_ = 0;
  waiting_requests_ += mail.num_requests();
  return !stopping_;
}

void EngineThread::Deliver(Mail& mail) {
  for (Submission& submission : mail.submissions) {
    std::vector<std::shared_ptr<TokenSink>> sinks;
    for (const CohortMember& member : submission.members) sinks.push_back(member.sink);
    const absl::Status status =
        submission.cohort
            ? engine_.SubmitCohort(submission.ids, std::move(submission.members))
            : engine_.Submit(submission.ids.front(), std::move(submission.members.front().request),
                             sinks.front());
    if (status.ok()) continue;
    for (const auto& sink : sinks) {
      TokenEvent event;
      event.finish = FinishReason::kError;
      event.error = status;
      sink->OnEvent(std::move(event));
    }
  }
  for (const Cancellation& cancellation : mail.cancellations) {
    engine_.Cancel(cancellation.id, cancellation.reason);
  }
  for (const Pause& pause : mail.pauses) engine_.SetPaused(pause.id, pause.paused);
  if (mail.cancel_all.has_value()) engine_.CancelAll(*mail.cancel_all);
}

void EngineThread::Run() {
  Mail mail;
  while (TakeMail(mail)) {
    Deliver(mail);
    mail.clear();
    if (healthy()) engine_.Step();
    CheckInvariants();
    absl::MutexLock lock(&mutex_);
    num_active_.store(engine_.num_active() + mail_.num_requests());
  }
  engine_.CancelAll("shutdown");
  for (const Submission& submission : mail.submissions) {
    for (const CohortMember& member : submission.members) {
      TokenEvent event;
      event.finish = FinishReason::kCancelled;
      member.sink->OnEvent(std::move(event));
    }
  }
  num_active_.store(0);
}

// A step that places no row although one may run would be repeated for ever; with nothing active
// every page must be free. Rather than answer wrongly, or never, stop taking traffic.
void EngineThread::CheckInvariants() {
  const absl::Status failed =
      RequestError(absl::StatusCode::kUnavailable, "device_lost", "", "the engine has failed");
  if (!healthy()) return engine_.FailAll(failed);  // what was on its way when it happened
  absl::Status status = engine_.runner().device_status();
  const bool device_lost = !status.ok();
  if (!device_lost && engine_.stalled()) {
    status = absl::InternalError("requests are runnable but no row could be scheduled");
  } else if (!device_lost && engine_.num_active() == 0) {
    status = engine_.CheckIntegrity();
    if (!status.ok()) engine_.metrics().CountInvariantViolation("integrity");
  }
  if (status.ok()) return;
  Log(LogLevel::kError, device_lost ? "device lost" : "invariant violated",
      {{"what", std::string(status.message())}});
  healthy_.store(false);
  engine_.FailAll(failed);
}

}  // namespace sluice
