#include "server/http/request_parser.h"

#include <algorithm>
#include <boost/beast/http/basic_parser.hpp>
#include <limits>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "engine/request_error.h"
#include "engine/status_macros.h"
#include "server/http/header_check.h"

namespace sluice::server {
namespace {

namespace http = boost::beast::http;
using boost::beast::string_view;
using ErrorCode = boost::beast::error_code;

absl::Status InvalidHttp() { return BadRequest("invalid_http", "", "not a valid HTTP request"); }

absl::Status BodyTooLarge() {
  return RequestError(absl::StatusCode::kResourceExhausted, "content_too_large", "",
                      "the request body is too large");
}

// "/v1/models?x=1" and "http://host/v1/models" to "/v1/models".
std::string PathOf(std::string target) {
  for (const char* scheme : {"http://", "https://"}) {
    if (!absl::StartsWithIgnoreCase(target, scheme)) continue;
    const size_t slash = target.find('/', std::char_traits<char>::length(scheme));
    target = slash == std::string::npos ? "/" : target.substr(slash);
  }
  return target.substr(0, target.find('?'));
}

// Empty lines before a request: some clients send one after a body.
void SkipEmptyLines(std::string& input) {
  size_t skip = 0;
  while (input.compare(skip, 2, "\r\n") == 0) skip += 2;
  input.erase(0, skip);
}

}  // namespace

// Beast's grammar of the head, with our storage. It never sees a body.
class RequestParser::HeadParser final : public http::basic_parser<true> {
 public:
  HeadParser(HttpRequest& request, const HttpLimits& limits) : request_(request) {
    header_limit(static_cast<std::uint32_t>(limits.max_head_bytes) + 1);
    // Ours is checked where bytes arrive; Beast 1.74 takes `none` for zero.
    body_limit(std::numeric_limits<std::uint64_t>::max());
  }

 private:
  void on_request_impl(
      http::verb, string_view method, string_view target, int version, ErrorCode&) override {
    request_.method = std::string(method);
    request_.path = PathOf(std::string(target));
    request_.is_http11 = version == 11;
  }
  void on_field_impl(http::field, string_view name, string_view value, ErrorCode&) override {
    request_.fields.emplace_back(absl::AsciiStrToLower(std::string(name)), std::string(value));
  }
  void on_response_impl(int, string_view, int, ErrorCode&) override {}
  void on_header_impl(ErrorCode&) override {}
  void on_body_init_impl(const boost::optional<std::uint64_t>&, ErrorCode&) override {}
  std::size_t on_body_impl(string_view body, ErrorCode&) override { return body.size(); }
  void on_chunk_header_impl(std::uint64_t, string_view, ErrorCode&) override {}
  std::size_t on_chunk_body_impl(std::uint64_t, string_view body, ErrorCode&) override {
    return body.size();
  }
  void on_finish_impl(ErrorCode&) override {}

  HttpRequest& request_;
};

RequestParser::RequestParser(const HttpLimits& limits)
    : limits_(limits), parser_(std::make_unique<HeadParser>(request_, limits_)), chunks_(limits) {}

RequestParser::~RequestParser() = default;

absl::StatusOr<bool> RequestParser::ParseHead(std::string& input) {
  if (checked_bytes_ < 2) {
    SkipEmptyLines(input);
    checked_bytes_ = 0;
  }
  const size_t from = checked_bytes_ < 3 ? 0 : checked_bytes_ - 3;
  const size_t end = input.find("\r\n\r\n", from);
  const size_t head_bytes = end == std::string::npos ? input.size() : end + 4;
  const std::string_view head = std::string_view(input).substr(0, head_bytes);
  RETURN_IF_ERROR(CheckPartialHead(head, checked_bytes_, limits_));
  checked_bytes_ = head_bytes;
  if (end == std::string::npos) return false;
  RETURN_IF_ERROR(CheckHead(head, limits_));
  ErrorCode error;
  const size_t used = parser_->put(boost::asio::const_buffer(head.data(), head.size()), error);
  if (error || used != head.size() || !parser_->is_header_done()) return InvalidHttp();
  input.erase(0, head_bytes);
  RETURN_IF_ERROR(FinishHead());
  return true;
}

absl::Status RequestParser::FinishHead() {
  if (request_.HasField("content-length")) {
    uint64_t length = 0;
    const std::string text(request_.Field("content-length"));
    if (!absl::SimpleAtoi(text, &length)) return InvalidHttp();
    declared_length_ = length;
  }
  request_.has_body = declared_length_.value_or(0) > 0 || parser_->chunked();
  request_.keep_alive = parser_->keep_alive();
  const std::string expect = absl::AsciiStrToLower(std::string(request_.Field("expect")));
  request_.expects_continue = expect == "100-continue" && request_.is_http11;
  if (!expect.empty() && !request_.expects_continue) {
    return BadRequest("expectation_failed", "", "only 100-continue can be expected");
  }
  return absl::OkStatus();
}

absl::StatusOr<bool> RequestParser::ParseBody(std::string& input) {
  if (parser_->chunked()) return chunks_.Decode(input, request_.body);
  const uint64_t length = declared_length_.value_or(0);
  if (length > limits_.max_body_bytes) return BodyTooLarge();
  const size_t count = std::min(static_cast<size_t>(length) - request_.body.size(), input.size());
  request_.body.append(input, 0, count);
  input.erase(0, count);
  return request_.body.size() == length;
}

}  // namespace sluice::server
