// Hands the processor from one stack to another, without the system calls of swapcontext. x86-64.
#pragma once

#include <cstdint>
#include <cstring>

namespace cuda_emulation {

// Saves the callee's registers on this stack and its address in *from, then goes on where `to` was
// saved (System V ABI: rbx, rbp, r12-r15 are the callee's).
extern "C" void sluice_switch_stack(void** from, void* to);
asm(R"(
.text
.globl sluice_switch_stack
.type sluice_switch_stack, @function
sluice_switch_stack:
  endbr64
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size sluice_switch_stack, .-sluice_switch_stack
)");

inline void SwitchStack(void** from, void* to) { sluice_switch_stack(from, to); }

// A stack that ends at `top` and starts in `entry`, which never returns.
inline void* NewStack(unsigned char* top, void (*entry)()) {
  const auto aligned = reinterpret_cast<uintptr_t>(top) & ~uintptr_t{15};
  // At `entry` the stack is 8 below a multiple of 16, as behind a call.
  auto* slot = reinterpret_cast<void**>(aligned - 16);
  slot[0] = reinterpret_cast<void*>(entry);
  slot[1] = nullptr;
  std::memset(slot - 6, 0, 6 * sizeof(void*));
  return slot - 6;
}

}  // namespace cuda_emulation
