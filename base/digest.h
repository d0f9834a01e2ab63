// XXH3-128 digests of bytes and files: 32 lower-case hexadecimal digits, of the canonical form.
// They find damage, not forgery.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"

namespace plait {

// The canonical (big-endian) form.
using DigestBytes = std::array<unsigned char, 16>;

class DigestStream {
 public:
  DigestStream();
  ~DigestStream();
  DigestStream(const DigestStream&) = delete;
  DigestStream& operator=(const DigestStream&) = delete;

  void Add(const void* data, size_t bytes);
  // Of everything added so far.
  std::string Hex() const;
  DigestBytes Bytes() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

std::string DigestOf(const void* data, size_t bytes);
// As two numbers, low and high; another digest for every seed.
std::array<uint64_t, 2> Digest128(const void* data, size_t bytes, uint64_t seed);

// Of a whole file, read in pieces. Errors of SystemError where it cannot be opened; DataLoss where
// it cannot be read.
absl::StatusOr<std::string> DigestOfFile(const std::string& path);

}  // namespace plait
