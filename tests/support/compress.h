// Compressed bytes for tests of those who read them.
#pragma once

#include <zlib.h>
#include <zstd.h>

#include <string>

#include "base/check.h"

namespace plait {

// One gzip stream.
inline std::string Gzip(const std::string& text) {
  z_stream stream{};
  PLAIT_CHECK(::deflateInit2(&stream, 6, Z_DEFLATED, 16 + MAX_WBITS, 8, Z_DEFAULT_STRATEGY) ==
              Z_OK);
  std::string packed(::deflateBound(&stream, text.size()) + 64, '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
  stream.avail_in = static_cast<uInt>(text.size());
  stream.next_out = reinterpret_cast<Bytef*>(packed.data());
  stream.avail_out = static_cast<uInt>(packed.size());
  PLAIT_CHECK(::deflate(&stream, Z_FINISH) == Z_STREAM_END);
  packed.resize(stream.total_out);
  ::deflateEnd(&stream);
  return packed;
}

// One zstandard frame, with a checksum.
inline std::string Zstandard(const std::string& text) {
  ZSTD_CCtx* context = ::ZSTD_createCCtx();
  ::ZSTD_CCtx_setParameter(context, ZSTD_c_checksumFlag, 1);
  std::string packed(::ZSTD_compressBound(text.size()), '\0');
  const size_t bytes =
      ::ZSTD_compress2(context, packed.data(), packed.size(), text.data(), text.size());
  ::ZSTD_freeCCtx(context);
  PLAIT_CHECK(!::ZSTD_isError(bytes));
  packed.resize(bytes);
  return packed;
}

}  // namespace plait
