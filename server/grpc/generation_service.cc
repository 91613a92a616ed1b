#include "server/grpc/generation_service.h"

#include "engine/request_error.h"
#include "engine/status_macros.h"
#include "server/grpc/generate_reactor.h"
#include "server/grpc/request_conversion.h"
#include "server/grpc/response_conversion.h"
#include "server/grpc/status_conversion.h"
#include "server/grpc/watch_routing_reactor.h"
#include "server/prompt_encoding.h"
#include "server/request_validation.h"

namespace sluice::server {
namespace {

absl::Status Convert(const v1::TokenizeRequest& request,
                     const EngineClient& engine,
                     v1::TokenizeResponse& response) {
  std::vector<int32_t> ids;
  if (request.has_chat()) {
    ASSIGN_OR_RETURN(const std::vector<ChatMessage> messages, ConvertChat(request.chat()));
    const bool opens_turn =
        !request.chat().has_add_generation_prompt() || request.chat().add_generation_prompt();
    ASSIGN_OR_RETURN(ids, EncodeChat(messages, opens_turn, engine));
  } else if (request.input_case() == v1::TokenizeRequest::kText) {
    const bool adds = !request.has_add_special_tokens() || request.add_special_tokens();
    ASSIGN_OR_RETURN(ids, EncodePrompt(request.text(), adds, engine.tokenizer()));
  } else {
    return BadRequest("missing_required", "input", "text or chat is required");
  }
  response.mutable_ids()->Add(ids.begin(), ids.end());
  for (size_t i = 0; i < ids.size(); ++i) {
    response.add_tokens(engine.tokenizer().TokenBytes(ids[i], i == 0));
  }
  response.set_max_model_len(engine.model().max_context_tokens);
  return absl::OkStatus();
}

absl::Status Convert(const v1::DetokenizeRequest& request,
                     const EngineClient& engine,
                     v1::DetokenizeResponse& response) {
  for (const int32_t id : request.ids()) {
    if (id < 0 || id >= engine.model().vocab_size) {
      return BadRequest("token_out_of_vocab", "ids", "a token id is not in the vocabulary");
    }
  }
  response.set_text(engine.tokenizer().Decode({request.ids().begin(), request.ids().end()}, true));
  return absl::OkStatus();
}

absl::Status Convert(const v1::GetModelRequest& /*request*/,
                     const EngineClient& engine,
                     v1::Model& response) {
  response = ConvertModel(engine.model());
  return absl::OkStatus();
}

template <class RequestMessage, class ResponseMessage>
absl::Status Answer(GrpcCore& core,
                    const grpc::CallbackServerContext& context,
                    const grpc::ByteBuffer& raw,
                    CallRecord& record,
                    grpc::ByteBuffer& out) {
  ASSIGN_OR_RETURN(const Principal principal, core.Authenticate(context));
  record.key_id = principal.key_id;
  ASSIGN_OR_RETURN(const EngineClient* engine, core.EngineFor(principal));
  RequestMessage request;
  RETURN_IF_ERROR(ParseMessage(raw, request));
  RETURN_IF_ERROR(ValidateModelName(request.model(), engine->model()));
  ResponseMessage response;
  RETURN_IF_ERROR(Convert(request, *engine, response));
  out = SerializeMessage(response);
  return absl::OkStatus();
}

// One unary call from its raw request to its end.
template <class RequestMessage, class ResponseMessage>
grpc::ServerUnaryReactor* Unary(Api api,
                                GrpcCore& core,
                                grpc::CallbackServerContext& context,
                                const grpc::ByteBuffer& request,
                                grpc::ByteBuffer& response) {
  CallRecord record = core.StartRecord(api, context);
  const absl::Status status =
      Answer<RequestMessage, ResponseMessage>(core, context, request, record, response);
  core.Finished(record, status);
  grpc::ServerUnaryReactor* reactor = context.DefaultReactor();
  reactor->Finish(ToGrpcStatus(status));
  return reactor;
}

}  // namespace

grpc::ServerWriteReactor<grpc::ByteBuffer>* GenerationService::Generate(
    grpc::CallbackServerContext* context, const grpc::ByteBuffer* request) {
  return GenerateReactor::Start(core_, *context, *request);
}

grpc::ServerUnaryReactor* GenerationService::Tokenize(grpc::CallbackServerContext* context,
                                                      const grpc::ByteBuffer* request,
                                                      grpc::ByteBuffer* response) {
  return Unary<v1::TokenizeRequest, v1::TokenizeResponse>(Api::kGrpcTokenize, core_, *context,
                                                          *request, *response);
}

grpc::ServerUnaryReactor* GenerationService::Detokenize(grpc::CallbackServerContext* context,
                                                        const grpc::ByteBuffer* request,
                                                        grpc::ByteBuffer* response) {
  return Unary<v1::DetokenizeRequest, v1::DetokenizeResponse>(Api::kGrpcDetokenize, core_, *context,
                                                              *request, *response);
}

grpc::ServerUnaryReactor* GenerationService::GetModel(grpc::CallbackServerContext* context,
                                                      const grpc::ByteBuffer* request,
                                                      grpc::ByteBuffer* response) {
  return Unary<v1::GetModelRequest, v1::Model>(Api::kGrpcModel, core_, *context, *request,
                                               *response);
}

grpc::ServerWriteReactor<grpc::ByteBuffer>* GenerationService::WatchRouting(
    grpc::CallbackServerContext* context, const grpc::ByteBuffer* request) {
  return WatchRoutingReactor::Start(core_, *context, *request);
}

}  // namespace sluice::server
