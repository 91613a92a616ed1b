// A field that one API has, the other has too. What differs by design is listed here, with the
// reason.
#include <map>
#include <set>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/http/request_fields.h"
#include "sluice/v1/generation.pb.h"

namespace sluice {
namespace {

using google::protobuf::Descriptor;

std::set<std::string> FieldNames(const Descriptor* message) {
  std::set<std::string> names;
  for (int i = 0; i < message->field_count(); ++i) names.insert(message->field(i)->name());
  return names;
}

// What the HTTP front end honours or accepts, from its own table.
std::set<std::string> HttpFields() {
  std::set<std::string> names;
  for (const server::RequestField& field : server::RequestFields()) {
    if (field.use == server::FieldUse::kHonoured) names.insert(std::string(field.name));
  }
  names.insert("user");  // accepted without effect in both
  return names;
}

// HTTP field -> what carries it in gRPC; empty: nothing has to.
const std::map<std::string, std::string> kHttpOnly = {
    {"prompt", "text"},  // one oneof instead of one polymorphic field
    {"messages", "chat"},
    {"max_completion_tokens", "max_tokens"},  // two names of one limit
    {"top_logprobs", "logprobs"},             // chat's pair of fields is one number here
    {"add_generation_prompt", "chat"},        // a field of the chat message
    {"tool_choice", ""},                      // only says that no tool is used
    {"response_format", ""},                  // only says that text is wanted
    {"input", "embed"},                       // the prompt, with a switch
    {"encoding_format", ""},                  // numbers are numbers here
    {"stream", ""},                           // every call streams
    {"stream_options", ""},                   // usage always comes
};

const std::set<std::string> kGrpcOnly = {"text", "token_ids", "chat", "embed"};

TEST(FieldParityTest, EveryHttpFieldHasAGrpcField) {
  const std::set<std::string> grpc = FieldNames(v1::GenerateRequest::descriptor());
  const std::set<std::string> http = HttpFields();
  EXPECT_GT(http.size(), 30u);
  for (const std::string& field : http) {
    const auto exception = kHttpOnly.find(field);
    const std::string name = exception == kHttpOnly.end() ? field : exception->second;
    if (!name.empty()) {
      EXPECT_TRUE(grpc.contains(name)) << field;
    }
  }
}

TEST(FieldParityTest, EveryGrpcFieldHasAnHttpField) {
  const std::set<std::string> http = HttpFields();
  for (const std::string& field : FieldNames(v1::GenerateRequest::descriptor())) {
    EXPECT_TRUE(http.contains(field) || kGrpcOnly.contains(field)) << field;
  }
}

TEST(FieldParityTest, TheRoutingObjectIsTheSame) {
  EXPECT_THAT(
      FieldNames(v1::Routing::descriptor()),
      testing::UnorderedElementsAre("mode", "capacity", "capacity_min", "exit_threshold",
                                    "max_depth", "experts_per_token", "expert_threshold", "trace"));
}

TEST(FieldParityTest, TheComputeSummaryIsTheSame) {
  EXPECT_THAT(
      FieldNames(v1::ComputeUsage::descriptor()),
      testing::UnorderedElementsAre("executed_token_layers", "skipped_token_layers",
                                    "skipped_ratio", "skipped_ratio_all_layers", "mean_depth",
                                    "distinct_experts", "dropped_experts", "flops", "dense_flops"));
}

}  // namespace
}  // namespace sluice
