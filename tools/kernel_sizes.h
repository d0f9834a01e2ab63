// Shapes of a model's kernels, as `plait bench kernels` times them.
#pragma once

#include <cstdint>

namespace plait {

struct KernelSizes {
  int64_t tokens = 4096;  // of a microbatch
  int64_t model_dim = 256, hidden_dim = 448;
  int64_t channels = 512, states = 16;
  int64_t heads = 4, kv_heads = 2, head_dim = 64;
  int64_t experts = 4, experts_per_token = 2;
  // Experts of the same number of rows in all, but many and small; experts that a router chooses
  // from.
  int64_t fine_experts = 16, fine_dim = 128, fine_hidden_dim = 64, routed_experts = 16;
  int64_t vocabulary = 8192, vocabulary_rows = 512;
  int64_t document_tokens = 512, packed_document_tokens = 96;
  int64_t optimizer_elements = 1 << 21;

  // Of the demo's recipe, for a CPU.
  static KernelSizes OfDemo() { return {}; }
  // Of Jamba 1.5 Large with four experts, on documents of 8192 tokens: for a device with 80 GB.
  static KernelSizes OfJambaLarge() {
    return {.tokens = 8192,
            .model_dim = 8192,
            .hidden_dim = 24576,
            .channels = 16384,
            .heads = 64,
            .kv_heads = 8,
            .head_dim = 128,
            .fine_experts = 64,
            .fine_dim = 2048,
            .fine_hidden_dim = 1408,
            .vocabulary = 65536,
            .vocabulary_rows = 2048,
            .document_tokens = 8192,
            .packed_document_tokens = 1000,
            .optimizer_elements = 1 << 28};
  }
  // No figure to go by: for the emulated device, and to see every kernel run in a moment.
  static KernelSizes Tiny() {
    return {.tokens = 24,
            .model_dim = 16,
            .hidden_dim = 32,
            .channels = 32,
            .heads = 4,
            .kv_heads = 2,
            .head_dim = 16,
            .fine_experts = 8,
            .fine_dim = 16,
            .fine_hidden_dim = 8,
            .routed_experts = 8,
            .vocabulary = 40,
            .vocabulary_rows = 8,
            .document_tokens = 24,
            .packed_document_tokens = 10,
            .optimizer_elements = 100};
  }
};

}  // namespace plait
