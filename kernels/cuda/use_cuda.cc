#include "kernels/cuda/use_cuda.h"

#include "kernels/backend_factory.h"
#include "kernels/cuda/cuda_backend.h"

namespace sluice::kernels::cuda {

void UseCuda() { SetCudaFactory(&CudaBackend::Create); }

}  // namespace sluice::kernels::cuda
