// The OpenAI response objects of one request: whole or in chunks for completions and chat, whole
// for embeddings.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "engine/engine_client.h"
#include "nlohmann/json.hpp"
#include "server/http/generation_plan.h"
#include "server/http/response_parts.h"

namespace sluice::server {

struct ResponseContext {
  const GenerationPlan& plan;
  const EngineClient& engine;
  std::string request_id;
  int64_t created_seconds = 0;
};

class ResponseShape {
 public:
  explicit ResponseShape(ResponseContext context);
  virtual ~ResponseShape() = default;

  // One event per choice, each with everything that choice produced.
  virtual nlohmann::json Whole(const std::vector<TokenEvent>& choices, const UsageTotal& usage);
  // What one event adds; null when it adds nothing that a client could see.
  nlohmann::json Chunk(size_t choice, const TokenEvent& event);
  // `choices` is empty: how clients recognise it.
  nlohmann::json UsageChunk(const UsageTotal& usage);
  // Before the first event of each choice; null when the shape has none.
  virtual nlohmann::json Opening(size_t choice) = 0;

 protected:
  virtual const char* ObjectName(bool chunk) const = 0;
  virtual nlohmann::json Choice(size_t choice, const TokenEvent& event, bool chunk) = 0;

  nlohmann::json Envelope(bool chunk) const;
  const PromptPlan& PromptOf(size_t choice) const {
    return context_.plan.prompts[choice / static_cast<size_t>(context_.plan.choices)];
  }
  // index, finish_reason, stop_reason, token_ids.
  nlohmann::json ChoiceBase(size_t choice, const TokenEvent& event) const;

  const ResponseContext context_;
  std::vector<int64_t> text_offsets_;  // per choice, in code points
  std::vector<bool> started_;          // per choice

 private:
  void AddTraces(nlohmann::json& response, size_t choice, const TokenEvent& event);

  int64_t trace_budget_ = 65'536;  // numbers in all traces of one response
};

std::unique_ptr<ResponseShape> MakeResponseShape(ResponseContext context);

}  // namespace sluice::server
