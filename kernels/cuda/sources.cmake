# Kernels over kernels/cuda/device.h, and what their launches share: compiled by nvcc for a device and by the host
# compiler for the emulation.
set(PLAIT_DEVICE_SOURCES
  device_copies.cc rms_norm.cu)
# Around libraries that exist on a device alone; the emulation has its own in their place.
set(PLAIT_CUDA_ONLY_SOURCES
  cublaslt_library.cc runtime.cc)
