#include "server/load/response_reader.h"

#include <boost/beast/http/basic_parser.hpp>
#include <boost/beast/http/error.hpp>
#include <limits>

namespace sluice::server {
namespace {

namespace http = boost::beast::http;
using boost::beast::string_view;
using ErrorCode = boost::beast::error_code;

constexpr std::uint32_t kMaxHeadBytes = 64 << 10;
constexpr size_t kMaxPendingBytes = 2 * size_t{kMaxHeadBytes};

}  // namespace

// Beast's grammar; the body goes straight to who asked.
class ResponseReader::Parser final : public http::basic_parser<false> {
 public:
  Parser() {
    header_limit(kMaxHeadBytes);
    body_limit(std::numeric_limits<std::uint64_t>::max());  // nothing is kept
    eager(true);
  }

  int status = 0;
  const absl::FunctionRef<void(std::string_view)>* on_body = nullptr;

 private:
  void on_request_impl(http::verb, string_view, string_view, int, ErrorCode&) override {}
  void on_response_impl(int code, string_view, int, ErrorCode&) override { code_ = code; }
  void on_field_impl(http::field, string_view, string_view, ErrorCode&) override {}
  void on_header_impl(ErrorCode&) override { status = code_; }
  void on_body_init_impl(const boost::optional<std::uint64_t>&, ErrorCode&) override {}
  std::size_t on_body_impl(string_view body, ErrorCode&) override {
    (*on_body)({body.data(), body.size()});
    return body.size();
  }
  void on_chunk_header_impl(std::uint64_t, string_view, ErrorCode&) override {}
  std::size_t on_chunk_body_impl(std::uint64_t, string_view body, ErrorCode&) override {
    (*on_body)({body.data(), body.size()});
    return body.size();
  }
  void on_finish_impl(ErrorCode&) override {}

  int code_ = 0;
};

ResponseReader::ResponseReader() : parser_(std::make_unique<Parser>()) {}
ResponseReader::~ResponseReader() = default;

int ResponseReader::status() const { return parser_->status; }
bool ResponseReader::is_done() const { return parser_->is_done(); }

absl::Status ResponseReader::Feed(std::string_view bytes,
                                  absl::FunctionRef<void(std::string_view)> on_body) {
  parser_->on_body = &on_body;
  pending_.append(bytes);
  size_t start = 0;
  while (start < pending_.size() && !parser_->is_done()) {
    ErrorCode error;
    const size_t used = parser_->put(
        boost::asio::const_buffer(pending_.data() + start, pending_.size() - start), error);
    start += used;
    if (error == http::error::need_more || (!error && used == 0)) break;
    if (error) return absl::InvalidArgumentError("the answer is not HTTP");
  }
  pending_.erase(0, start);
  if (pending_.size() > kMaxPendingBytes) {
    return absl::InvalidArgumentError("the answer is not HTTP: its head never ends");
  }
  return absl::OkStatus();
}

absl::Status ResponseReader::End() {
  if (parser_->is_done()) return absl::OkStatus();
  ErrorCode error;
  if (parser_->is_header_done()) parser_->put_eof(error);
  if (error || !parser_->is_done()) {
    return absl::DataLossError("the connection ended in the middle of the answer");
  }
  return absl::OkStatus();
}

}  // namespace sluice::server
