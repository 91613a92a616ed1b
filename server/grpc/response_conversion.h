// TokenEvent to GenerateResponse, and the sums of a call with several choices. Knows protobuf but
// not gRPC.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "engine/engine_client.h"
#include "engine/request.h"
#include "server/grpc/request_conversion.h"
#include "sluice/v1/generation.pb.h"

namespace sluice::server {

// Adds what `event` brings to `response`. Events of one choice may be added to one response in
// order.
void AppendEvent(const TokenEvent& event,
                 const GenerateCall& call,
                 const Tokenizer& tokenizer,
                 v1::GenerateResponse& response);

// Fills `response.prompt`; `event` is the first of choice 0.
void AppendPrompt(const TokenEvent& event,
                  const GenerateCall& call,
                  const Tokenizer& tokenizer,
                  v1::GenerateResponse& response);

// Adds a choice's usage to the call's: prompt and cached tokens count once, the rest adds up.
void AddUsage(const Usage& choice, Usage& sum);

v1::Usage ConvertUsage(const Usage& usage);

// Trailing metadata: the compute summary as ("sluice-skipped-ratio", "0.5") and so on.
std::vector<std::pair<std::string, std::string>> ComputeMetadata(const v1::ComputeUsage& compute);

v1::Model ConvertModel(const ModelCard& card);

}  // namespace sluice::server
