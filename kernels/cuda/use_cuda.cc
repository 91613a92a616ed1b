#include "kernels/cuda/use_cuda.h"

#include "kernels/backend_factory.h"
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/device_limits.h"
#include "kernels/machine_limits.h"

namespace sluice::kernels::cuda {

void UseCuda() {
  SetCudaFactory(&CudaBackend::Create);
  SetCudaMeasurement(&MeasureDevice);
}

}  // namespace sluice::kernels::cuda
