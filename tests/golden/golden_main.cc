// sluice-golden: holds golden folders against this build's numbers. What golden_test asserts, for
// people and for folders from elsewhere.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <iterator>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/str_join.h"
#include "tests/golden/golden_check.h"

namespace sluice {
namespace {

constexpr char kHelp[] =
    "usage: sluice-golden [--device reference|cpu|cuda] [--weights f32|bf16|int8|int4] FOLDER...\n"
    "Runs the model of each folder (of tests/golden or shared/goldens) and compares every layer "
    "with\n"
    "expected.safetensors; models that are causal per token also in chunks, token by token and\n"
    "beside another sequence, which must give the same bits.\n"
    "exit status: 0 all equal, 1 a miss or a folder that cannot be checked, 2 wrong usage\n";

void Print(const GoldenReport& report) {
  for (const TensorResult& tensor : report.tensors) {
    std::printf("  %-24s error %9.2e  allowed %9.2e  %s\n", tensor.name.c_str(),
                static_cast<double>(tensor.worst), static_cast<double>(tensor.allowed),
                tensor.ok() ? "ok" : "MISS");
  }
  if (report.layer_alone) {
    std::printf("  a layer alone\n");
  } else if (report.whole_prompt) {
    std::printf("  one shot only: rows of a prompt depend on later ones\n");
  } else if (report.wrong_ways.empty()) {
    std::printf("  chunks of 7, token by token, beside others, generating: the same bits\n");
  }
  for (const std::string& way : report.wrong_ways) std::printf("  other bits: %s\n", way.c_str());
  // By name, each under why.
  std::map<std::string, std::vector<std::string>> names;
  for (const NotCompared& tensor : report.not_compared) names[tensor.why].push_back(tensor.name);
  for (const auto& [why, some] : names) {
    std::printf("  not compared (%s): %s\n", why.empty() ? "NO REASON KNOWN" : why.c_str(),
                absl::StrJoin(some, " ").c_str());
  }
  if (!report.unused_weights.empty())
    std::printf("  weights not read: %s\n", absl::StrJoin(report.unused_weights, " ").c_str());
}

// Whether the folder agrees.
bool Check(const std::string& folder, const CheckOptions& options) {
  const absl::StatusOr<GoldenReport> report = CheckGolden(folder, options);
  if (!report.ok()) {
    std::printf("%s: cannot be checked: %s\n", folder.c_str(),
                std::string(report.status().message()).c_str());
    return false;
  }
  std::printf("%s (%s)\n", folder.c_str(), report->family.c_str());
  Print(*report);
  const std::string wrong = report->first_wrong();
  if (!wrong.empty()) std::printf("%s: first wrong is %s\n", folder.c_str(), wrong.c_str());
  std::printf("%s: %s\n", folder.c_str(), report->ok() ? "ok" : "MISS");
  return report->ok();
}

int Usage(const std::string& problem) {
  std::fprintf(stderr, "sluice-golden: %s\n%s", problem.c_str(), kHelp);
  return 2;
}

int Main(const std::vector<std::string>& arguments) {
  CheckOptions options;
  std::vector<std::string> folders;
  for (size_t i = 0; i < arguments.size(); ++i) {
    const std::string& argument = arguments[i];
    const std::string value = i + 1 < arguments.size() ? arguments[i + 1] : "";
    if (argument == "--help") {
      std::fputs(kHelp, stdout);
      return 0;
    }
    if (argument == "--device") {
      if (value != "reference" && value != "cpu" && value != "cuda")
        return Usage("--device takes reference, cpu or cuda");
      options.device = value;
      ++i;
    } else if (argument == "--weights") {
      constexpr kernels::WeightFormat kFormats[] = {
          kernels::WeightFormat::kF32, kernels::WeightFormat::kBF16, kernels::WeightFormat::kInt8,
          kernels::WeightFormat::kInt4};
      const auto* format = std::find_if(std::begin(kFormats), std::end(kFormats),
                                        [&](auto each) { return value == kernels::Name(each); });
      if (format == std::end(kFormats)) return Usage("--weights takes f32, bf16, int8 or int4");
      options.weights = *format;
      ++i;
    } else if (argument.rfind("--", 0) == 0) {
      return Usage("unknown option " + argument);
    } else {
      folders.push_back(argument);
    }
  }
  if (folders.empty()) return Usage("no folder");
  bool all = true;
  for (const std::string& folder : folders) all &= Check(folder, options);
  return all ? 0 : 1;
}

}  // namespace
}  // namespace sluice

int main(int count, char** values) { return sluice::Main({values + 1, values + count}); }
