// The served forms of the shared fixtures whose rows repeat a group: their configs under the
// server's keys, and their expected tensors under the names of golden_check. Tests only.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"
#include "tests/golden/golden_files.h"

namespace sluice {

absl::StatusOr<nlohmann::json> ServedHuginnConfig(const nlohmann::json& golden);
absl::StatusOr<nlohmann::json> ServedRecursionsConfig(const nlohmann::json& golden);
absl::StatusOr<nlohmann::json> ServedSparseUniversalConfig(const nlohmann::json& golden);

// prelude.#, latent.#, coda.#: the outputs of the last layers of parts and recurrences.
void RenameHuginn(const nlohmann::json& golden, ExpectedTensors& expected);
// Token choice: the depths, as who runs which recursion; expert choice: the masks.
void RenameRecursions(const nlohmann::json& golden, ExpectedTensors& expected);
// S.#: the state after a step; who has not halted; -1 among the experts of those who have.
void RenameSparseUniversal(const nlohmann::json& golden, ExpectedTensors& expected);

// The weights of the layer of shawntan/SUT on given rows x [sequences, length, dim]: the rows
// become the embedding of as many tokens, and the head.
ExpectedTensors OriginalLayerWeights(const ExpectedTensors& layer, const ExpectedTensor& x);

}  // namespace sluice
