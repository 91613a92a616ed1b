// TLS with a certificate made here: a request, the lowest version, a reload.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <memory>

#include "tests/server/http_fixture.h"

namespace sluice::server {
namespace {

template <auto Free>
struct Freer {
  template <class T>
  void operator()(T* pointer) const {
    Free(pointer);
  }
};
using Key = std::unique_ptr<EVP_PKEY, Freer<EVP_PKEY_free>>;
using Certificate = std::unique_ptr<X509, Freer<X509_free>>;
using TlsContext = std::unique_ptr<SSL_CTX, Freer<SSL_CTX_free>>;
using Tls = std::unique_ptr<SSL, Freer<SSL_free>>;

struct Pem {
  std::string certificate;
  std::string key;
};

template <class Write>
std::string ToPem(Write write) {
  BIO* bio = BIO_new(BIO_s_mem());
  write(bio);
  char* text = nullptr;
  const long size = BIO_get_mem_data(bio, &text);
  std::string pem(text, static_cast<size_t>(size));
  BIO_free(bio);
  return pem;
}

Pem SelfSigned(long serial) {
  const Key key(EVP_EC_gen("P-256"));
  const Certificate certificate(X509_new());
  ASN1_INTEGER_set(X509_get_serialNumber(certificate.get()), serial);
  X509_gmtime_adj(X509_getm_notBefore(certificate.get()), 0);
  X509_gmtime_adj(X509_getm_notAfter(certificate.get()), 3600);
  X509_set_pubkey(certificate.get(), key.get());
  X509_NAME* name = X509_get_subject_name(certificate.get());
  const std::string host = "localhost";
  X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC,
                             reinterpret_cast<const unsigned char*>(host.data()), -1, -1, 0);
  X509_set_issuer_name(certificate.get(), name);
  X509_sign(certificate.get(), key.get(), EVP_sha256());
  return {ToPem([&](BIO* bio) { PEM_write_bio_X509(bio, certificate.get()); }),
          ToPem([&](BIO* bio) {
            PEM_write_bio_PrivateKey(bio, key.get(), nullptr, nullptr, 0, nullptr, nullptr);
          })};
}

struct TlsAnswer {
  bool connected = false;
  long serial = 0;
  std::string text;
};

// One request over TLS of at most `max_version`.
TlsAnswer Ask(uint16_t port, const std::string& request, int max_version = TLS1_3_VERSION) {
  TlsAnswer answer;
  const int fd = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (::connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0) {
    const TlsContext context(SSL_CTX_new(TLS_client_method()));
    SSL_CTX_set_max_proto_version(context.get(), max_version);
    const Tls tls(SSL_new(context.get()));
    SSL_set_fd(tls.get(), fd);
    answer.connected = SSL_connect(tls.get()) == 1;
    if (answer.connected) {
      const Certificate peer(SSL_get1_peer_certificate(tls.get()));
      answer.serial = ASN1_INTEGER_get(X509_get_serialNumber(peer.get()));
      SSL_write(tls.get(), request.data(), static_cast<int>(request.size()));
      std::array<char, 4096> bytes;
      int received = 0;
      while ((received = SSL_read(tls.get(), bytes.data(), bytes.size())) > 0) {
        answer.text.append(bytes.data(), static_cast<size_t>(received));
      }
    }
  }
  ::close(fd);
  return answer;
}

class TlsTest : public HttpFixture {
 protected:
  void Write(const Pem& pem) {
    options_.tls_certificate_file = WriteFile("cert.pem", pem.certificate);
    options_.tls_key_file = WriteFile("key.pem", pem.key);
  }
  static std::string Request() {
    return PostText(kCompletionsPath, R"({"prompt": "a", "stream": true})",
                    "Connection: close\r\n");
  }
};

TEST_F(TlsTest, StreamsOverTls) {
  Write(SelfSigned(1));
  StartServer();
  const TlsAnswer answer = Ask(port(), Request());
  EXPECT_EQ(answer.text.rfind("HTTP/1.1 200", 0), 0u) << answer.text;
  EXPECT_NE(answer.text.find("[DONE]"), std::string::npos);
  EXPECT_EQ(Get(server_->metrics_port(), "/health/live").status, 200);  // stays plain
}

TEST_F(TlsTest, OldVersionsAreRefused) {
  Write(SelfSigned(1));
  StartServer();
  EXPECT_TRUE(Ask(port(), Request(), TLS1_2_VERSION).connected);
  EXPECT_FALSE(Ask(port(), Request(), TLS1_1_VERSION).connected);
}

TEST_F(TlsTest, ReloadTakesTheNewCertificateAndKeepsTheOldOneOnErrors) {
  Write(SelfSigned(1));
  StartServer();
  EXPECT_EQ(Ask(port(), Request()).serial, 1);
  Write(SelfSigned(2));
  ASSERT_TRUE(server_->ReloadTls().ok());
  EXPECT_EQ(Ask(port(), Request()).serial, 2);
  Write({"not a certificate", "not a key"});
  EXPECT_FALSE(server_->ReloadTls().ok());
  EXPECT_EQ(Ask(port(), Request()).serial, 2);
}

TEST_F(TlsTest, PlainHttpOnATlsPortEnds) {
  Write(SelfSigned(1));
  StartServer();
  HttpClient client(port());
  client.Send("GET /health HTTP/1.1\r\nHost: a\r\n\r\n");
  EXPECT_TRUE(client.AtEnd());
}

TEST_F(TlsTest, AHandshakeThatNeverStartsTimesOut) {
  options_.timeouts.tls_handshake = absl::Milliseconds(200);
  Write(SelfSigned(1));
  StartServer();
  HttpClient client(port());
  EXPECT_TRUE(client.AtEnd());
}

TEST_F(TlsTest, ABadCertificateFileIsNamed) {
  options_.tls_certificate_file = "/nonexistent/cert.pem";
  options_.tls_key_file = "/nonexistent/key.pem";
  options_.port = 0;
  options_.metrics_port = -1;
  const auto server = HttpServer::Create(options_, nullptr);
  EXPECT_EQ(server.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(std::string(server.status().message()).find("cert.pem"), std::string::npos);
}

}  // namespace
}  // namespace sluice::server
