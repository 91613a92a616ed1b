// API keys for both front ends: who is calling, which models and how many tokens per minute they
// may use. Keys are stored and compared as SHA-256 digests, in constant time over all keys. Not for
// TLS. Thread-safe.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "engine/clock.h"

namespace sluice::server {

// Payload of a ResourceExhausted or Unavailable status: whole seconds, as text.
inline constexpr std::string_view kRetryAfterPayload = "sluice/retry-after";

using KeyDigest = std::array<unsigned char, 32>;

// One line of the key file: `id:sha256hex:models:tokens_per_minute`; `*` for all models, no limit.
struct ApiKey {
  std::string id;
  KeyDigest digest{};
  std::vector<std::string> models;  // empty: all
  int64_t tokens_per_minute = 0;    // 0: no limit
};

// Parses a key file's text. InvalidArgument names the line, never its content.
absl::StatusOr<std::vector<ApiKey>> ParseKeyFile(std::string_view text);

// The caller of one request. Without a key file everybody is the same open principal.
struct Principal {
  std::string key_id;  // empty: no keys are configured
  bool admin = true;   // key id `admin` or `admin-...`
  std::vector<std::string> models;
  int64_t tokens_per_minute = 0;
};

class Authenticator {
 public:
  // An empty `key_file` leaves the server open. `clock` outlives the authenticator.
  // NotFound, InvalidArgument when the file cannot be read or parsed.
  static absl::StatusOr<std::unique_ptr<Authenticator>> Create(std::string key_file,
                                                               const Clock* clock);

  // Reads the key file again; on an error the old keys stay. Quota balances of kept ids stay.
  absl::Status Reload();

  bool open() const { return key_file_.empty(); }

  // Unauthenticated `invalid_api_key`.
  absl::StatusOr<Principal> Authenticate(std::string_view presented) const;

  // PermissionDenied `model_not_allowed`.
  static absl::Status CheckModel(const Principal& principal, std::string_view model);

  // Takes `prompt_tokens` from the caller's minute. ResourceExhausted `rate_limit_exceeded`.
  absl::Status Admit(const Principal& principal, int64_t prompt_tokens);
  // Takes what was generated afterwards; the balance may go below zero.
  void Charge(const Principal& principal, int64_t generated_tokens);

 private:
  struct Balance {
    double tokens = 0.0;
    absl::Duration updated;
  };

  Authenticator(std::string key_file, const Clock* clock)
      : key_file_(std::move(key_file)), clock_(clock) {}
  Balance& Refill(const Principal& principal) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const std::string key_file_;
  const Clock* const clock_;
  mutable absl::Mutex mutex_;
  std::vector<ApiKey> keys_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, Balance> balances_ ABSL_GUARDED_BY(mutex_);
};

// The key inside `Authorization: Bearer ...`; empty when the header has another form.
std::string_view BearerToken(std::string_view authorization);

KeyDigest DigestOf(std::string_view key);

}  // namespace sluice::server
