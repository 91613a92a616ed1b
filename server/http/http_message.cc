#include "server/http/http_message.h"

#include <boost/beast/http/status.hpp>

#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace sluice::server {
namespace {

void AppendField(std::string& head, std::string_view name, std::string_view value) {
  head.append(name).append(": ").append(value).append("\r\n");
}

}  // namespace

std::string_view HttpRequest::Field(std::string_view name) const {
  for (const auto& [field, value] : fields) {
    if (field == name) return value;
  }
  return {};
}

bool HttpRequest::HasField(std::string_view name) const {
  for (const auto& field : fields) {
    if (field.first == name) return true;
  }
  return false;
}

std::string_view ReasonPhrase(int status) {
  const auto phrase = boost::beast::http::obsolete_reason(
      boost::beast::http::int_to_status(static_cast<unsigned>(status)));
  return {phrase.data(), phrase.size()};
}

std::string ResponseHead(const HttpResponse& response,
                         std::string_view length_field,
                         bool keep_alive) {
  std::string head = "HTTP/1.1 ";
  head.append(std::to_string(response.status)).append(" ");
  head.append(ReasonPhrase(response.status)).append("\r\n");
  AppendField(head, "Date",
              absl::FormatTime("%a, %d %b %Y %H:%M:%S GMT", absl::Now(), absl::UTCTimeZone()));
  if (!response.content_type.empty()) AppendField(head, "Content-Type", response.content_type);
  if (!length_field.empty()) head.append(length_field).append("\r\n");
  AppendField(head, "Connection", keep_alive ? "keep-alive" : "close");
  AppendField(head, "X-Content-Type-Options", "nosniff");
  for (const auto& [name, value] : response.fields) AppendField(head, name, value);
  return head.append("\r\n");
}

}  // namespace sluice::server
