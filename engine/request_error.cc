#include "engine/request_error.h"

#include "absl/strings/cord.h"

namespace sluice {
namespace {

std::string Payload(const absl::Status& status, std::string_view url) {
  const auto payload = status.GetPayload({url.data(), url.size()});
  return payload.has_value() ? std::string(*payload) : std::string();
}

}  // namespace

absl::Status RequestError(absl::StatusCode status,
                          std::string_view code,
                          std::string_view param,
                          std::string_view message) {
  absl::Status result(status, {message.data(), message.size()});
  result.SetPayload({kErrorCodePayload.data(), kErrorCodePayload.size()},
                    absl::Cord({code.data(), code.size()}));
  if (!param.empty()) {
    result.SetPayload({kErrorParamPayload.data(), kErrorParamPayload.size()},
                      absl::Cord({param.data(), param.size()}));
  }
  return result;
}

absl::Status BadRequest(std::string_view code, std::string_view param, std::string_view message) {
  return RequestError(absl::StatusCode::kInvalidArgument, code, param, message);
}

absl::Status CheckModelGives(bool asks_embedding, bool is_encoder) {
  if (asks_embedding == is_encoder) return absl::OkStatus();
  return BadRequest("unsupported_parameter", "model",
                    asks_embedding ? "this model generates text and gives no embeddings"
                                   : "this model is an encoder: it gives embeddings and generates "
                                     "no text");
}

std::string ErrorCodeOf(const absl::Status& status) { return Payload(status, kErrorCodePayload); }
std::string ErrorParamOf(const absl::Status& status) { return Payload(status, kErrorParamPayload); }

}  // namespace sluice
