#include "base/digest.h"

#include <fcntl.h>
#include <unistd.h>
#include <xxhash.h>

#include <cerrno>
#include <cstring>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/durable_file.h"

namespace plait {
namespace {

DigestBytes Canonical(XXH128_hash_t hash) {
  XXH128_canonical_t canonical;
  XXH128_canonicalFromHash(&canonical, hash);
  DigestBytes bytes;
  static_assert(sizeof(canonical.digest) == sizeof(bytes));
  std::memcpy(bytes.data(), canonical.digest, sizeof(bytes));
  return bytes;
}

std::string HexOf(const DigestBytes& bytes) {
  return absl::BytesToHexString(
      absl::string_view(reinterpret_cast<const char*>(bytes.data()), bytes.size()));
}

}  // namespace

struct DigestStream::State {
  XXH3_state_t* xxh3 = nullptr;
};

DigestStream::DigestStream() : state_(std::make_unique<State>()) {
  state_->xxh3 = XXH3_createState();
  PLAIT_CHECK(state_->xxh3 != nullptr);
  XXH3_128bits_reset(state_->xxh3);
}

DigestStream::~DigestStream() { XXH3_freeState(state_->xxh3); }

void DigestStream::Add(const void* data, size_t bytes) {
  if (bytes > 0) XXH3_128bits_update(state_->xxh3, data, bytes);
}

std::string DigestStream::Hex() const { return HexOf(Bytes()); }

DigestBytes DigestStream::Bytes() const { return Canonical(XXH3_128bits_digest(state_->xxh3)); }

std::array<uint64_t, 2> Digest128(const void* data, size_t bytes, uint64_t seed) {
  const XXH128_hash_t hash = XXH3_128bits_withSeed(data, bytes, seed);
  return {hash.low64, hash.high64};
}

std::string DigestOf(const void* data, size_t bytes) {
  return HexOf(Canonical(XXH3_128bits(data, bytes)));
}

absl::StatusOr<std::string> DigestOfFile(const std::string& path) {
  const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) return SystemError(path, "cannot be opened", errno);
  DigestStream digest;
  std::vector<char> buffer(128 << 10);  // stays in a core's cache
  ssize_t got = 0;
  while ((got = ::read(file, buffer.data(), buffer.size())) > 0)
    digest.Add(buffer.data(), static_cast<size_t>(got));
  const int error = errno;
  ::close(file);
  if (got < 0)
    return absl::DataLossError(absl::StrCat(path, ": cannot be read: ", std::strerror(error)));
  return digest.Hex();
}

}  // namespace plait
