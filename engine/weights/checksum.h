// A fast 64-bit checksum against accidents: torn writes, flipped bits, swapped blocks. Not against
// an attacker (manifest.h has SHA-256 for that).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace sluice {

// Any change inside eight neighbouring bytes changes it; of others few go unnoticed. The same on
// every machine of the same byte order.
uint64_t Checksum64(std::span<const std::byte> bytes, uint64_t seed);

}  // namespace sluice
