#include "server/http/header_check.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "engine/request_error.h"
#include "engine/status_macros.h"

namespace sluice::server {
namespace {

struct HeadFacts {
  int num_hosts = 0;
  int num_lengths = 0;
  int num_encodings = 0;
  size_t num_fields = 0;
  bool is_http10 = false;
};

absl::Status InvalidHttp(std::string_view message) {
  return BadRequest("invalid_http", "", message);
}

absl::Status TooLarge() {
  return RequestError(absl::StatusCode::kResourceExhausted, "headers_too_large", "",
                      "the request head is too large");
}

absl::Status TargetTooLong() {
  return BadRequest("uri_too_long", "", "the request target is too long");
}

bool NameIs(std::string_view name, std::string_view lower) {
  return absl::EqualsIgnoreCase({name.data(), name.size()}, {lower.data(), lower.size()});
}

bool IsToken(std::string_view text) {
  constexpr std::string_view kPunctuation = "!#$%&'*+-.^_`|~";
  return !text.empty() && std::all_of(text.begin(), text.end(), [&](char c) {
    return absl::ascii_isalnum(static_cast<unsigned char>(c)) ||
           kPunctuation.find(c) != std::string_view::npos;
  });
}

bool IsDigits(std::string_view text) {
  return !text.empty() && text.size() <= 18 &&
         std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; });
}

std::string_view Trim(std::string_view text) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
  while (!text.empty() && (text.back() == ' ' || text.back() == '\t')) text.remove_suffix(1);
  return text;
}

absl::Status CheckRequestLine(std::string_view line, const HttpLimits& limits, HeadFacts& facts) {
  const size_t first = line.find(' ');
  const size_t last = line.rfind(' ');
  if (first == std::string_view::npos || first == last) return InvalidHttp("bad request line");
  const std::string_view target = line.substr(first + 1, last - first - 1);
  const std::string_view version = line.substr(last + 1);
  if (target.size() > limits.max_target_bytes) return TargetTooLong();
  const bool graphic =
      std::all_of(target.begin(), target.end(), [](char c) { return c > ' ' && c < '\x7f'; });
  if (!IsToken(line.substr(0, first)) || target.empty() || !graphic) {
    return InvalidHttp("bad request line");
  }
  if (version != "HTTP/1.1" && version != "HTTP/1.0") return InvalidHttp("unknown HTTP version");
  facts.is_http10 = version == "HTTP/1.0";
  return absl::OkStatus();
}

absl::Status CheckValueBytes(std::string_view name, std::string_view value) {
  for (const char c : value) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte == 0 && (NameIs(name, "authorization") || NameIs(name, "x-api-key"))) {
      return RequestError(absl::StatusCode::kUnauthenticated, "invalid_api_key", "",
                          "a valid API key is required");
    }
    if ((byte < 0x20 && byte != '\t') || byte == 0x7f) {
      return InvalidHttp("control character in a header field");
    }
  }
  return absl::OkStatus();
}

absl::Status CheckField(std::string_view line, HeadFacts& facts) {
  ++facts.num_fields;
  if (line.front() == ' ' || line.front() == '\t') return InvalidHttp("folded header field");
  const size_t colon = line.find(':');
  if (colon == std::string_view::npos) return InvalidHttp("header field without a colon");
  const std::string_view name = line.substr(0, colon);
  const std::string_view value = Trim(line.substr(colon + 1));
  if (!IsToken(name)) return InvalidHttp("bad header field name");
  RETURN_IF_ERROR(CheckValueBytes(name, value));
  if (NameIs(name, "host")) {
    ++facts.num_hosts;
  } else if (NameIs(name, "content-length")) {
    ++facts.num_lengths;
    if (!IsDigits(value)) return InvalidHttp("bad Content-Length");
  } else if (NameIs(name, "transfer-encoding")) {
    ++facts.num_encodings;
    if (!NameIs(value, "chunked")) return InvalidHttp("unknown Transfer-Encoding");
  }
  return absl::OkStatus();
}

absl::Status CheckFacts(const HeadFacts& facts) {
  if (facts.num_hosts > 1 || (facts.num_hosts == 0 && !facts.is_http10)) {
    return BadRequest("bad_host", "", "exactly one Host field is required");
  }
  if (facts.num_lengths + facts.num_encodings > 1) {
    return InvalidHttp("more than one message length");
  }
  if (facts.is_http10 && facts.num_encodings > 0) {
    return InvalidHttp("Transfer-Encoding needs HTTP/1.1");
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckPartialHead(std::string_view text, size_t from, const HttpLimits& limits) {
  // Also what a TLS hello on a plain port runs into.
  if (!text.empty() && text.front() != '\r' && !IsToken(text.substr(0, 1))) {
    return InvalidHttp("bad request line");
  }
  for (size_t i = from; i < text.size(); ++i) {
    const bool bare_lf = text[i] == '\n' && (i == 0 || text[i - 1] != '\r');
    const bool bare_cr = text[i] != '\n' && i > 0 && text[i - 1] == '\r';
    if (bare_lf || bare_cr) return InvalidHttp("lines must end in CR LF");
  }
  if (text.size() <= limits.max_target_bytes) return absl::OkStatus();
  const std::string_view line = text.substr(0, text.find('\r'));
  if (line.size() > limits.max_target_bytes + 64) return TargetTooLong();
  return text.size() > limits.max_head_bytes ? TooLarge() : absl::OkStatus();
}

absl::Status CheckHead(std::string_view head, const HttpLimits& limits) {
  HeadFacts facts;
  bool is_first = true;
  if (head.size() > limits.max_head_bytes) return TooLarge();
  while (true) {
    const size_t end = head.find("\r\n");
    if (end == std::string_view::npos) return InvalidHttp("lines must end in CR LF");
    const std::string_view line = head.substr(0, end);
    head.remove_prefix(end + 2);
    if (line.find_first_of("\r\n") != std::string_view::npos) {
      return InvalidHttp("lines must end in CR LF");
    }
    if (line.empty()) break;
    RETURN_IF_ERROR(is_first ? CheckRequestLine(line, limits, facts) : CheckField(line, facts));
    if (facts.num_fields > limits.max_header_fields) return TooLarge();
    is_first = false;
  }
  if (is_first) return InvalidHttp("bad request line");
  return CheckFacts(facts);
}

}  // namespace sluice::server
