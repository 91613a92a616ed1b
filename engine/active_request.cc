#include "engine/active_request.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/request_error.h"

namespace sluice {

ActiveRequest::ActiveRequest(Request request,
                             std::shared_ptr<TokenSink> sink,
                             RowRouting routing,
                             const Facts& facts)
    : submitted_at(facts.now),
      last_token_at(facts.now),
      request_(std::move(request)),
      sink_(std::move(sink)),
      routing_(routing),
      eos_token_ids_(facts.eos_token_ids),
      sampler_(request_.sampling, facts.vocab_size),
      detokenizer_(*facts.tokenizer,
                   request_.stop.skip_special_tokens,
                   /*continues_text=*/facts.prompt_precedes),
      stop_matcher_(request_.stop.stop) {
  for (const int32_t token : request_.prompt) {
    if (facts.prompt_precedes) sampler_.Append(token, /*generated=*/false);
  }
  forbidden_ = request_.stop.stop_token_ids;
  forbidden_.insert(forbidden_.end(), eos_token_ids_.begin(), eos_token_ids_.end());
  usage_.prompt_tokens = static_cast<int32_t>(request_.prompt.size());
  if (wants_prompt_logprobs()) pending_.prompt_logprobs.emplace_back(std::nullopt);
}

bool ActiveRequest::IsEos(int32_t token) const {
  return std::find(eos_token_ids_.begin(), eos_token_ids_.end(), token) != eos_token_ids_.end();
}

void ActiveRequest::ScorePrompt(int32_t position, std::span<const float> logits) {
  if (position != prompt_scored_ || position + 1 >= usage_.prompt_tokens) return;
  ++prompt_scored_;
  const int32_t next = request_.prompt[static_cast<size_t>(position) + 1];
  auto logprob = LogprobOf(logits, next, *request_.sampling.prompt_logprobs);
  if (!logprob.ok()) {
    failure_ = logprob.status();
    return;
  }
  pending_.prompt_logprobs.emplace_back(*std::move(logprob));
}

void ActiveRequest::AddHidden(std::span<const float> row) {
  hidden_sum_.resize(row.size());
  for (size_t i = 0; i < row.size(); ++i) {
    hidden_sum_[i] += static_cast<double>(row[i]);
    if (std::isfinite(row[i])) continue;
    failure_ = RequestError(absl::StatusCode::kInternal, "nonfinite_logits", "",
                            "The model's output for this request was not a finite number.");
  }
  ++num_hidden_;
}

bool ActiveRequest::SampleNext(std::span<float> logits) {
  if (!failure_.ok()) return false;
  auto choice = sampler_.Sample(logits, ForbiddenAt(num_generated_));
  if (!choice.ok()) {
    failure_ = choice.status();
    return false;
  }
  sampled_ = choice->token;
  sampled_logprob_ = std::move(choice->logprob);
  return true;
}

absl::StatusOr<int32_t> ActiveRequest::Guess(std::span<float> logits,
                                             std::span<const int32_t> guesses) {
  const auto ahead = static_cast<int32_t>(guesses.size());
  return sampler_.Guess(logits, ForbiddenAt(num_generated_ + ahead), ahead);
}

std::span<const int32_t> ActiveRequest::ForbiddenAt(int32_t num_generated) const {
  if (num_generated < request_.stop.min_tokens) return forbidden_;
  return {};
}

bool ActiveRequest::AcceptToken(bool context_full, absl::Duration now) {
  const StopParams& stop = request_.stop;
  last_token_at = now;
  sampler_.Append(sampled_, /*generated=*/true);
  ++num_generated_;
  usage_.completion_tokens = num_generated_;
  pending_.tokens.push_back(sampled_);
  if (request_.sampling.logprobs.has_value()) pending_.logprobs.push_back(sampled_logprob_);
  if (trace_.has_value()) pending_.traces.push_back(*std::exchange(trace_, std::nullopt));

  const auto& stop_ids = stop.stop_token_ids;
  if (std::find(stop_ids.begin(), stop_ids.end(), sampled_) != stop_ids.end()) {
    finish_ = FinishReason::kStop;
    pending_.stop_reason = absl::StrCat(sampled_);
    if (stop.include_stop)
      pending_.text += stop_matcher_.Append(detokenizer_.Append(sampled_), true).text;
  } else if (IsEos(sampled_) && !stop.ignore_eos) {
    finish_ = FinishReason::kStop;
  } else {
    const std::string text = detokenizer_.Append(sampled_);
    if (num_generated_ < stop.min_tokens) {
      pending_.text += text;
    } else {
      StopMatcher::Result matched = stop_matcher_.Append(text, stop.include_stop);
      pending_.text += matched.text;
      if (matched.stop.has_value()) {
        finish_ = FinishReason::kStop;
        pending_.stop_reason = *std::move(matched.stop);
        matched_stop_string_ = true;
      }
    }
    if (finish_ == FinishReason::kNone && (num_generated_ >= stop.max_tokens || context_full)) {
      finish_ = FinishReason::kLength;
    }
  }
  if (finish_ == FinishReason::kNone) Deliver(/*last=*/false);
  return finish_ != FinishReason::kNone;
}

void ActiveRequest::TouchExpert(int64_t slot) {
  const auto index = static_cast<size_t>(slot);
  if (index >= experts_touched_.size()) experts_touched_.resize(index + 1, false);
  if (experts_touched_[index]) return;
  experts_touched_[index] = true;
  ++usage_.compute.distinct_experts;
}

void ActiveRequest::Deliver(bool last) {
  pending_.usage = usage_;
  if (last || !pending_.text.empty() || !pending_.tokens.empty() ||
      !pending_.prompt_logprobs.empty()) {
    sink_->OnEvent(std::move(pending_));
  }
  pending_ = TokenEvent();
}

void ActiveRequest::Finish(FinishReason reason, absl::Status error) {
  // A stop string ends the text; otherwise what was held back is text after all.
  const bool complete = reason == FinishReason::kStop || reason == FinishReason::kLength;
  if (complete && !matched_stop_string_) {
    pending_.text += stop_matcher_.Append(detokenizer_.Flush(), false).text;
    pending_.text += stop_matcher_.Flush();
  }
  if (complete) {
    for (const double sum : hidden_sum_)
      pending_.embedding.push_back(static_cast<float>(sum / num_hidden_));
  }
  finish_ = reason;
  pending_.finish = reason;
  pending_.error = std::move(error);
  Deliver(/*last=*/true);
}

}  // namespace sluice
