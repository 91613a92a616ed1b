// Executes AMX instructions on processors without them: a handler of SIGILL decodes each and works
// on tile registers of its thread. So the machine code of the AMX kernels is tested everywhere, not
// only their loops. Only for tests; a few microseconds an instruction.
#pragma once

namespace sluice {

// From now on AMX instructions run in this process, and where there are AVX-512 and its bf16
// isa=amx can be asked for: in hardware where that and the system permit, otherwise emulated. False
// where the code around them could not run (no AVX-512, not x86-64). An instruction that hardware
// would refuse (tiles not configured, shapes that do not fit, a register used twice) ends the
// process with its name.
bool RunAmxInstructions();

}  // namespace sluice
