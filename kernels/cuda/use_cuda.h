// For programs that have the CUDA backend; no CUDA header stands behind it.
#pragma once

namespace sluice::kernels::cuda {

// CreateBackend and MeasureMachine know "cuda" from now on. Before the first call of them.
void UseCuda();

}  // namespace sluice::kernels::cuda
