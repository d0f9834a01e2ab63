# Kernels over kernels/cuda/device.h, and what their launches share: compiled by nvcc for a device and by the host
# compiler for the emulation.
set(PLAIT_DEVICE_SOURCES
  device_copies.cc
  library_grouped_matmul.cc
  scratch.cc
  attention.cu
  attention_backward.cu
  attention_merge.cu
  attention_statistics.cu
  causal_convolution.cu
  cudnn_attention_calls.cc
  elementwise.cu
  embedding.cu
  exact_sum.cu
  expert_routing.cu
  gated_activation.cu
  grouped_matmul.cu
  indexed_numbers.cu
  matmul.cu
  optimizer_update.cu
  piece_sum.cu
  rank_reduction.cu
  real_sums.cu
  rms_norm.cu
  rotary_embedding.cu
  selective_scan_backward.cu
  selective_scan_forward.cu
  selective_scan_summary.cu
  token_cross_entropy.cu
  vocabulary_merge.cu)
# Around libraries that exist on a device alone; the emulation has its own in their place.
set(PLAIT_CUDA_ONLY_SOURCES
  cublaslt_library.cc
  cudnn_attention.cc
  cutlass_grouped_matmul.cu
  library_product.cc
  runtime.cc)
