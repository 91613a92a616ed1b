#include "server/auth/authenticator.h"

#include <openssl/crypto.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <sstream>

#include "absl/strings/cord.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "engine/request_error.h"
#include "engine/status_macros.h"

namespace sluice::server {
namespace {

constexpr size_t kMaxFileBytes = 4 << 20;
constexpr size_t kMaxKeyBytes = 4096;

absl::StatusOr<std::string> ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return absl::NotFoundError(absl::StrCat(path, ": cannot be opened"));
  std::string text(kMaxFileBytes + 1, '\0');
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<size_t>(file.gcount()));
  if (text.size() > kMaxFileBytes) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": larger than 4 MiB"));
  }
  return text;
}

bool IsAdmin(const std::string& id) { return id == "admin" || absl::StartsWith(id, "admin-"); }

}  // namespace

absl::StatusOr<std::unique_ptr<Authenticator>> Authenticator::Create(std::string key_file,
                                                                     const Clock* clock) {
  std::unique_ptr<Authenticator> authenticator(new Authenticator(std::move(key_file), clock));
  RETURN_IF_ERROR(authenticator->Reload());
  return authenticator;
}

absl::Status Authenticator::Reload() {
  if (open()) return absl::OkStatus();
  ASSIGN_OR_RETURN(const std::string text, ReadFile(key_file_));
  ASSIGN_OR_RETURN(std::vector<ApiKey> keys, ParseKeyFile(text));
  const absl::MutexLock lock(&mutex_);
  keys_ = std::move(keys);
  std::map<std::string, Balance> kept;
  for (const ApiKey& key : keys_) {
    const auto it = balances_.find(key.id);
    if (it != balances_.end()) kept.insert(*it);
  }
  balances_ = std::move(kept);
  return absl::OkStatus();
}

absl::StatusOr<Principal> Authenticator::Authenticate(std::string_view presented) const {
  if (open()) return Principal{};
  const KeyDigest digest = DigestOf(presented.substr(0, kMaxKeyBytes));
  const absl::MutexLock lock(&mutex_);
  const ApiKey* found = nullptr;
  // Every key is compared, whether one matched or not, so that time says nothing about them.
  for (const ApiKey& key : keys_) {
    if (CRYPTO_memcmp(key.digest.data(), digest.data(), digest.size()) == 0) found = &key;
  }
  if (found == nullptr || presented.empty() || presented.size() > kMaxKeyBytes) {
    return RequestError(absl::StatusCode::kUnauthenticated, "invalid_api_key", "",
                        "a valid API key is required");
  }
  return Principal{.key_id = found->id,
                   .admin = IsAdmin(found->id),
                   .models = found->models,
                   .tokens_per_minute = found->tokens_per_minute};
}

absl::Status Authenticator::CheckModel(const Principal& principal, std::string_view model) {
  const std::vector<std::string>& models = principal.models;
  if (models.empty() || std::find(models.begin(), models.end(), model) != models.end()) {
    return absl::OkStatus();
  }
  return RequestError(absl::StatusCode::kPermissionDenied, "model_not_allowed", "model",
                      "this key may not use this model");
}

Authenticator::Balance& Authenticator::Refill(const Principal& principal) {
  const absl::Duration now = clock_->Now();
  const auto limit = static_cast<double>(principal.tokens_per_minute);
  const auto [it, is_new] = balances_.try_emplace(principal.key_id, Balance{limit, now});
  Balance& balance = it->second;
  const double seconds = absl::ToDoubleSeconds(now - balance.updated);
  balance.tokens = std::min(limit, balance.tokens + limit * seconds / 60.0);
  balance.updated = now;
  return balance;
}

absl::Status Authenticator::Admit(const Principal& principal, int64_t prompt_tokens) {
  if (principal.tokens_per_minute == 0) return absl::OkStatus();
  const absl::MutexLock lock(&mutex_);
  Balance& balance = Refill(principal);
  const auto limit = static_cast<double>(principal.tokens_per_minute);
  // A prompt above the whole minute's budget runs from a full balance, or it never could.
  const double needed = std::min(std::max(static_cast<double>(prompt_tokens), 1.0), limit);
  if (balance.tokens >= needed) {
    balance.tokens -= static_cast<double>(prompt_tokens);
    return absl::OkStatus();
  }
  const double wait_seconds = std::ceil((needed - balance.tokens) * 60.0 / limit);
  absl::Status status = RequestError(absl::StatusCode::kResourceExhausted, "rate_limit_exceeded",
                                     "", "this key has used its tokens per minute");
  status.SetPayload({kRetryAfterPayload.data(), kRetryAfterPayload.size()},
                    absl::Cord(absl::StrCat(static_cast<int64_t>(std::max(wait_seconds, 1.0)))));
  return status;
}

void Authenticator::Charge(const Principal& principal, int64_t generated_tokens) {
  if (principal.tokens_per_minute == 0) return;
  const absl::MutexLock lock(&mutex_);
  Refill(principal).tokens -= static_cast<double>(generated_tokens);
}

std::string_view BearerToken(std::string_view authorization) {
  constexpr std::string_view kScheme = "Bearer ";
  if (!absl::StartsWithIgnoreCase({authorization.data(), authorization.size()},
                                  {kScheme.data(), kScheme.size()})) {
    return {};
  }
  authorization.remove_prefix(kScheme.size());
  while (!authorization.empty() && authorization.front() == ' ') authorization.remove_prefix(1);
  return authorization;
}

}  // namespace sluice::server
