#include "server/http/openapi_document.h"

#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_split.h"
#include "server/http/exchange.h"
#include "server/http/request_fields.h"

namespace sluice::server {
namespace {

using nlohmann::json;

json TypeSchema(std::string_view types) {
  const std::vector<std::string> names = absl::StrSplit(std::string(types), '|');
  json schema = json::object();
  if (names.size() == 1) {
    schema["type"] = names.front();
    return schema;
  }
  json options = json::array();
  for (const std::string& name : names) {
    json option;
    option["type"] = name;
    options.push_back(std::move(option));
  }
  schema["anyOf"] = std::move(options);
  return schema;
}

json RequestSchema(uint8_t api) {
  json properties = json::object();
  for (const RequestField& field : RequestFields()) {
    if ((field.apis & api) == 0 || field.use == FieldUse::kUnsupported) continue;
    json schema = TypeSchema(field.type);
    schema["nullable"] = true;
    if (!field.description.empty()) schema["description"] = std::string(field.description);
    properties[std::string(field.name)] = std::move(schema);
  }
  json schema;
  schema["type"] = "object";
  schema["properties"] = std::move(properties);
  schema["required"] = json::array({api == kInChat         ? "messages"
                                    : api == kInEmbeddings ? "input"
                                                           : "prompt"});
  return schema;
}

json ErrorSchema() {
  json error;
  for (const char* key : {"message", "type", "param", "code"}) {
    error["properties"][key]["type"] = "string";
    error["required"].push_back(key);
  }
  error["properties"]["param"]["nullable"] = true;
  error["properties"]["code"]["nullable"] = true;
  error["type"] = "object";
  json schema;
  schema["type"] = "object";
  schema["properties"]["error"] = std::move(error);
  return schema;
}

json BodyOf(std::string_view path) {
  json schema;
  schema["type"] = "object";
  if (path == "/v1/completions") schema = RequestSchema(kInCompletions);
  if (path == "/v1/chat/completions") schema = RequestSchema(kInChat);
  if (path == "/v1/embeddings") schema = RequestSchema(kInEmbeddings);
  json body;
  body["required"] = true;
  body["content"]["application/json"]["schema"] = std::move(schema);
  return body;
}

}  // namespace

json OpenApiDocument(const std::string& version) {
  json document;
  document["openapi"] = "3.0.3";
  document["info"]["title"] = "Sluice";
  document["info"]["version"] = version;
  document["components"]["schemas"]["Error"] = ErrorSchema();
  document["components"]["securitySchemes"]["bearer"]["type"] = "http";
  document["components"]["securitySchemes"]["bearer"]["scheme"] = "bearer";
  for (const Route& route : Routes()) {
    json operation;
    operation["responses"]["200"]["description"] = "OK";
    json& error = operation["responses"]["default"];
    error["description"] = "An error; all four members are always present.";
    error["content"]["application/json"]["schema"]["$ref"] = "#/components/schemas/Error";
    if (route.method == "POST") operation["requestBody"] = BodyOf(route.path);
    if (route.access != Access::kOpen) {
      operation["security"][0]["bearer"] = json::array();
    }
    if (route.path.find("{model}") != std::string_view::npos) {
      json parameter;
      parameter["name"] = "model";
      parameter["in"] = "path";
      parameter["required"] = true;
      parameter["schema"]["type"] = "string";
      operation["parameters"].push_back(std::move(parameter));
    }
    const std::string method = absl::AsciiStrToLower(std::string(route.method));
    document["paths"][std::string(route.path)][method] = std::move(operation);
  }
  return document;
}

}  // namespace sluice::server
