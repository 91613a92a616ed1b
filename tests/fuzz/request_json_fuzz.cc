// The body of a generation request, of any bytes: a plan, or an error with a code that is never
// Internal.
#include <cstdint>
#include <string_view>

#include "engine/request_error.h"
#include "kernels/check.h"
#include "server/http/generation_plan.h"
#include "tests/support/fake_engine.h"

namespace {

void CheckError(const absl::Status& status) {
  if (status.ok()) return;
  SLUICE_CHECK(!sluice::ErrorCodeOf(status).empty());
  SLUICE_CHECK(status.code() != absl::StatusCode::kInternal);
  SLUICE_CHECK(status.code() != absl::StatusCode::kUnknown);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const sluice::FakeEngine engine{{.manual = true}};
  const std::string_view body(reinterpret_cast<const char*>(data), size);
  for (const bool strict : {false, true}) {
    const sluice::server::PlanContext context{
        .engine = engine,
        .strict_fields = strict,
        .allow_routing_trace = true,
        .check_model = [](std::string_view) { return absl::OkStatus(); }};
    CheckError(sluice::server::PlanCompletion(body, context).status());
    CheckError(sluice::server::PlanChat(body, context).status());
  }
  return 0;
}
