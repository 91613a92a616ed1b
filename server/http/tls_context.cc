#include "server/http/tls_context.h"

#include <openssl/ssl.h>

#include "absl/strings/str_cat.h"

namespace sluice::server {

absl::StatusOr<std::shared_ptr<boost::asio::ssl::context>> LoadTlsContext(
    const std::string& certificate_file, const std::string& key_file) {
  namespace ssl = boost::asio::ssl;
  auto context = std::make_shared<ssl::context>(ssl::context::tls_server);
  boost::system::error_code error;
  context->set_options(ssl::context::default_workarounds | ssl::context::no_compression, error);
  if (SSL_CTX_set_min_proto_version(context->native_handle(), TLS1_2_VERSION) != 1) {
    return absl::InternalError("this OpenSSL cannot require TLS 1.2");
  }
  context->use_certificate_chain_file(certificate_file, error);
  if (error) {
    return absl::InvalidArgumentError(
        absl::StrCat(certificate_file, ": no usable PEM certificate chain"));
  }
  context->use_private_key_file(key_file, ssl::context::pem, error);
  if (error || SSL_CTX_check_private_key(context->native_handle()) != 1) {
    return absl::InvalidArgumentError(
        absl::StrCat(key_file, ": no usable PEM key for the certificate"));
  }
  return context;
}

}  // namespace sluice::server
