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

constexpr size_t kMaxChunkLineBytes = 16 << 10;

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

// Beast's grammar with our storage: fields and body go straight into the HttpRequest.
class RequestParser::BeastParser final : public http::basic_parser<true> {
 public:
  BeastParser(HttpRequest& request, const HttpLimits& limits) : request_(request), limits_(limits) {
    header_limit(static_cast<std::uint32_t>(limits.max_head_bytes) + 1);
    // Ours are checked where bytes arrive; Beast 1.74 takes `none` for zero.
    body_limit(std::numeric_limits<std::uint64_t>::max());
  }

  const absl::Status& status() const { return status_; }

 private:
  void on_request_impl(
      http::verb, string_view method, string_view target, int version, ErrorCode&) override {
    request_.method = std::string(method);
    request_.path = PathOf(std::string(target));
    request_.is_http11 = version == 11;
  }
  void on_response_impl(int, string_view, int, ErrorCode&) override {}
  void on_field_impl(http::field, string_view name, string_view value, ErrorCode&) override {
    if (is_header_done()) return;  // trailers change nothing
    request_.fields.emplace_back(absl::AsciiStrToLower(std::string(name)), std::string(value));
  }
  void on_header_impl(ErrorCode&) override {}
  void on_body_init_impl(const boost::optional<std::uint64_t>&, ErrorCode&) override {}
  std::size_t on_body_impl(string_view body, ErrorCode& error) override {
    return Append(body, error);
  }
  void on_chunk_header_impl(std::uint64_t, string_view, ErrorCode& error) override {
    if (++num_chunks_ > limits_.max_chunks) Fail(error);
  }
  std::size_t on_chunk_body_impl(std::uint64_t, string_view body, ErrorCode& error) override {
    return Append(body, error);
  }
  void on_finish_impl(ErrorCode&) override {}

  std::size_t Append(string_view body, ErrorCode& error) {
    if (body.size() > limits_.max_body_bytes - request_.body.size()) {
      Fail(error);
      return 0;
    }
    request_.body.append(body.data(), body.size());
    return body.size();
  }
  void Fail(ErrorCode& error) {
    status_ = BodyTooLarge();
    error = http::error::body_limit;
  }

  HttpRequest& request_;
  const HttpLimits& limits_;
  size_t num_chunks_ = 0;
  absl::Status status_;
};

RequestParser::RequestParser(const HttpLimits& limits)
    : limits_(limits), parser_(std::make_unique<BeastParser>(request_, limits_)) {}

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
  if (declared_length_.value_or(0) > limits_.max_body_bytes) return BodyTooLarge();
  size_t done = 0;
  while (!parser_->is_done() && done < input.size()) {
    ErrorCode error;
    const boost::asio::const_buffer rest(input.data() + done, input.size() - done);
    const size_t used = parser_->put(rest, error);
    done += used;
    if (error == http::error::need_more) break;
    if (!parser_->status().ok()) return parser_->status();
    if (error) return InvalidHttp();
    if (used == 0) break;
  }
  input.erase(0, done);
  if (!parser_->is_done() && input.size() > kMaxChunkLineBytes) return InvalidHttp();
  return parser_->is_done();
}

}  // namespace sluice::server
