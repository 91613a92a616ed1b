#!/usr/bin/env bash
# Prints the path of nvcc: that of the machine, or else one of NVIDIA's packages on PyPI (about 130 MB), which it
# puts into build/cuda-toolkit. Enough to compile; to run, a driver is needed too.
#   cmake --preset cuda -DCMAKE_CUDA_COMPILER="$(tools/cuda_toolkit.sh)"
#   tools/cuda_toolkit.sh --installed   # that of the machine or nothing, with exit status 1
set -euo pipefail
cd "$(dirname "$0")/.."
if command -v nvcc; then exit 0; fi
if [[ -x /usr/local/cuda/bin/nvcc ]]; then # where NVIDIA's packages put it, and no PATH has it
  echo /usr/local/cuda/bin/nvcc
  exit 0
fi
[[ ${1:-} != --installed ]] || exit 1
toolkit=build/cuda-toolkit
if ! compgen -G "$toolkit/lib/python3*/site-packages/nvidia/cu*/bin/nvcc" > /dev/null; then
  python3 -m venv "$toolkit"
  "$toolkit/bin/pip" install --quiet --disable-pip-version-check \
    'nvidia-cuda-nvcc==13.0.*' 'nvidia-cuda-runtime==13.0.*' 'nvidia-nvvm==13.0.*' 'nvidia-cuda-crt==13.0.*' \
    'nvidia-cuda-cccl==13.0.*'
  # Names that these packages lack: that by which nvcc finds its libraries, and the one that CMake looks for, although
  # what is linked is libcudart_static.a.
  for root in "$toolkit"/lib/python3*/site-packages/nvidia/cu*; do
    ln -sfn lib "$root/lib64"
    ln -sf libcudart.so.13 "$root/lib/libcudart.so"
  done
fi
realpath "$toolkit"/lib/python3*/site-packages/nvidia/cu*/bin/nvcc
