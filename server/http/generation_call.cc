#include "server/http/generation_call.h"

#include "absl/strings/cord.h"
#include "engine/request_error.h"
#include "engine/status_macros.h"

namespace sluice::server {
namespace {

class ChoiceSink final : public TokenSink {
 public:
  ChoiceSink(std::shared_ptr<EventQueue> queue, size_t choice)
      : queue_(std::move(queue)), choice_(choice) {}
  void OnEvent(TokenEvent event) override { queue_->Push(choice_, std::move(event)); }

 private:
  std::shared_ptr<EventQueue> queue_;
  size_t choice_;
};

// The engine speaks of the prompt; the client's field may have another name.
absl::Status NamingField(absl::Status status, const GenerationPlan& plan) {
  if (ErrorParamOf(status) == "prompt")
    status.SetPayload(std::string(kErrorParamPayload), absl::Cord(plan.prompt_field));
  return status;
}

}  // namespace

void EventQueue::Push(size_t choice, TokenEvent event) {
  const absl::MutexLock lock(&mutex_);
  if (closed_) return;
  events_.push_back({choice, std::move(event)});
  if (posted_) return;
  posted_ = true;
  asio::post(executor_, [wake = wake_, alive = std::weak_ptr<bool>(alive_)] {
    if (!alive.expired()) wake->Notify();
  });
}

std::vector<ChoiceEvent> EventQueue::Take() {
  const absl::MutexLock lock(&mutex_);
  posted_ = false;
  return std::exchange(events_, {});
}

void EventQueue::Close() {
  const absl::MutexLock lock(&mutex_);
  alive_.reset();
  closed_ = true;
  events_.clear();
}

GenerationCall::GenerationCall(EngineClient& engine, const asio::any_io_executor& executor)
    : engine_(engine), wake_(executor), queue_(std::make_shared<EventQueue>(executor, &wake_)) {}

GenerationCall::~GenerationCall() {
  Cancel("disconnect");
  queue_->Close();
}

absl::Status GenerationCall::Submit(const GenerationPlan& plan) {
  if (plan.parameters.routing.mode == RoutingParams::Mode::kCohort) return SubmitCohort(plan);
  for (const PromptPlan& prompt : plan.prompts) {
    for (int32_t choice = 0; choice < plan.choices; ++choice) {
      Request request = plan.parameters;
      request.prompt = prompt.tokens;
      request.sampling.seed += static_cast<uint64_t>(choice);
      const auto submitted =
          engine_.Submit(std::move(request), std::make_shared<ChoiceSink>(queue_, ids_.size()));
      if (!submitted.ok()) {
        Cancel("sibling_refused");
        return NamingField(submitted.status(), plan);
      }
      ids_.push_back(*submitted);
      choice_finished_.push_back(false);
    }
  }
  return absl::OkStatus();
}

// Every choice of every prompt has a slot.
absl::Status GenerationCall::SubmitCohort(const GenerationPlan& plan) {
  std::vector<CohortMember> members;
  for (const PromptPlan& prompt : plan.prompts) {
    for (int32_t choice = 0; choice < plan.choices; ++choice) {
      CohortMember& member = members.emplace_back(CohortMember{plan.parameters, nullptr});
      member.request.prompt = prompt.tokens;
      member.request.sampling.seed += static_cast<uint64_t>(choice);
      member.sink = std::make_shared<ChoiceSink>(queue_, members.size() - 1);
    }
  }
  auto ids = engine_.SubmitCohort(std::move(members));
  if (!ids.ok()) return NamingField(ids.status(), plan);
  ids_ = *std::move(ids);
  choice_finished_.assign(ids_.size(), false);
  return absl::OkStatus();
}

void GenerationCall::Cancel(const std::string& reason) {
  for (size_t i = 0; i < ids_.size(); ++i) {
    if (!choice_finished_[i]) engine_.Cancel(ids_[i], reason);
    choice_finished_[i] = true;
  }
  num_finished_ = ids_.size();
}

void GenerationCall::SetPaused(bool paused) {
  for (size_t i = 0; i < ids_.size(); ++i) {
    if (!choice_finished_[i]) engine_.SetPaused(ids_[i], paused);
  }
}

std::vector<ChoiceEvent> GenerationCall::Take() {
  std::vector<ChoiceEvent> events = queue_->Take();
  for (const ChoiceEvent& item : events) {
    if (item.event.finish == FinishReason::kNone || choice_finished_[item.choice]) continue;
    choice_finished_[item.choice] = true;
    ++num_finished_;
  }
  return events;
}

}  // namespace sluice::server
