#!/usr/bin/env bash
# Builds plait with CUDA and packs it with the GPU tests and every library that they need: one file, which runs on any
# x86-64 Linux with glibc 2.36 or newer and nothing installed.
#
# usage: tools/make_bundle.sh [--output FOLDER] [--without-cuda] [--no-build]
#   --output FOLDER  where plait-VERSION-COMMIT.tar.xz goes; default build/bundle
#   --without-cuda   a CPU-only plait, and no GPU tests, from a machine without nvcc
#   --no-build       packs what build/release has
#
# In it: bin/plait, gpu_tests/, lib/, recipes/library/, tools/gpu_check.sh, tools/launch/, BUNDLE.txt. Left out are libc,
# the NVIDIA driver and CUDA's libraries: cudart is linked statically, cuBLASLt, cuDNN and NCCL are loaded from where
# LD_LIBRARY_PATH has them (tools/gpu_check.sh looks for them). Of ICU's data it has what the tokenizers read. lib/openmpi
# has Open MPI's library, which one rank does not start; for many ranks remove that folder and use the machine's own Open
# MPI 4 or 5.
#
# Prints the file, its size and what is in it. Fails where a program needs what a bare machine lacks, or above 60 MB.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

output=build/bundle cuda=ON build=1
while [ $# -gt 0 ]; do
  case $1 in
    --output) output=${2:?--output needs a folder}; shift ;;
    --without-cuda) cuda=OFF ;;
    --no-build) build=0 ;;
    -h | --help) sed -n '2,/^set /{/^set /!s/^# \{0,1\}//p}' "$0"; exit 0 ;;
    *) echo "make_bundle.sh: unknown option $1 (see --help)" >&2; exit 2 ;;
  esac
  shift
done
most_bytes=60000000
newest_glibc=2.36
tree=build/release

if [ "$build" = 1 ]; then
  tools/install_dependencies.sh
  mkdir -p build
  cmake --preset release -DPLAIT_TESTS=ON -DPLAIT_CUDA="$cuda" >build/bundle.log 2>&1 ||
    { tail -n 20 build/bundle.log >&2; exit 1; }
  targets=(plait)
  mapfile -t -O 1 targets < <(ctest --test-dir "$tree" -N -L '^gpu$' | sed -n 's/^ *Test *#[0-9]*: //p')
  ninja -C "$tree" "${targets[@]}" >>build/bundle.log 2>&1 ||
    { grep -E -A 12 'FAILED|error' build/bundle.log | head -n 60 >&2; exit 1; }
fi

version=$(sed -n 's/^CMAKE_PROJECT_VERSION:STATIC=//p' "$tree/CMakeCache.txt")
commit=$(git -c safe.directory="$PWD" rev-parse --short=10 HEAD)
[ -z "$(git -c safe.directory="$PWD" status --porcelain --untracked-files=no)" ] || commit+=-changed
name=plait-$version-$commit
mkdir -p "$output"
root=$(cd "$output" && pwd)/$name
rm -rf "$root" "$root.tar.xz"
mkdir -p "$root"/{bin,lib/openmpi,recipes,tools}

cp "$tree/tools/plait" "$root/bin/"
programs=("$root/bin/plait")
if [ "$cuda" = ON ]; then
  mkdir -p "$root/gpu_tests"
  while read -r test; do
    cp "$tree/tests/$test" "$root/gpu_tests/"
    programs+=("$root/gpu_tests/$test")
  done < <(ctest --test-dir "$tree" -N -L '^gpu$' | sed -n 's/^ *Test *#[0-9]*: //p')
  [ ${#programs[@]} -gt 1 ] || { echo "make_bundle.sh: $tree has no GPU tests; is CUDA ON there?" >&2; exit 1; }
fi
cp -r recipes/library "$root/recipes/"
cp -r tools/launch tools/gpu_check.sh "$root/tools/"
cp LICENSE "$root/"

# Of libc's family, on every machine.
is_libc() { [[ $1 =~ ^(lib(c|m|dl|rt|pthread|util|resolv|anl|mvec|BrokenLocale)\.so\.|ld-linux) ]]; }
is_cuda() { [[ $1 =~ ^lib(cuda|cublas|cudnn|cufft|curand|cusolver|cusparse|cupti|nv|nccl) ]]; }
needed() { readelf -d "$1" | sed -n 's/.*(NEEDED).*\[\(.*\)\]$/\1/p'; }

# Where the linker of this machine finds each library, of all that the programs need directly or in turn.
declare -A paths
while read -r library arrow path _; do
  if [ "$arrow" = '=>' ]; then paths[$library]=$path; fi
done < <(for program in "$tree/tools/plait" "${programs[@]}"; do ldd "$program"; done)

# What files ask for goes to lib/; Open MPI, and what it alone asks for, to lib/openmpi.
declare -A taken
collect() { # FILE FOLDER
  local library folder path
  while read -r library; do
    if is_libc "$library" || [ -n "${taken[$library]-}" ]; then continue; fi
    if is_cuda "$library"; then
      echo "make_bundle.sh: ${1##*/} needs $library to start, which a machine without CUDA lacks; load it when it is used" >&2
      exit 1
    fi
    folder=$2
    if [[ $library = libmpi.so.* ]]; then
      [ "$with_mpi" = 1 ] || continue
      folder=$root/lib/openmpi
    fi
    path=${paths[$library]-}
    [ -f "$path" ] || { echo "make_bundle.sh: $library, needed by ${1##*/}, is not found" >&2; exit 1; }
    taken[$library]=1
    cp -L "$path" "$folder/$library"
    chmod u+w "$folder/$library"
    collect "$folder/$library" "$folder"
  done < <(needed "$1")
}
for with_mpi in 0 1; do
  for program in "${programs[@]}"; do collect "$program" "$root/lib"; done
done
# A library with a search path of its own would look for its libraries there alone, not where the program says.
python3 - "$root" <<'PYTHON'
import pathlib, struct, sys
DT_NULL, DT_RPATH, DT_RUNPATH, PT_DYNAMIC = 0, 15, 29, 2
for path in pathlib.Path(sys.argv[1], "lib").rglob("*.so*"):
    data = bytearray(path.read_bytes())
    assert data[:5] == b"\x7fELF\x02", path
    headers, size, count = (*struct.unpack_from("<Q", data, 32), *struct.unpack_from("<2H", data, 54))[:3]
    for at in range(headers, headers + size * count, size):
        kind, _, begin, _, _, length = struct.unpack_from("<2I4Q", data, at)
        if kind != PT_DYNAMIC:
            continue
        entries = [data[i : i + 16] for i in range(begin, begin + length, 16)]
        kept = [entry for entry in entries if struct.unpack_from("<Q", entry)[0] not in (DT_RPATH, DT_RUNPATH)]
        kept += [struct.pack("<2Q", DT_NULL, 0)] * (len(entries) - len(kept))
        data[begin : begin + length] = b"".join(kept)
        path.write_bytes(data)
PYTHON

# ICU's data is 31 MB; plait's tokenizers read the one table of forms NFKC and NFKD, all else is in ICU's code.
icu=$(basename "$(find "$root/lib" -name 'libicudata.so.*')")
if [ -n "$icu" ]; then
  number=${icu##*.}
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  objcopy -O binary --only-section=.rodata "$root/lib/$icu" "$work/icudt${number}l.dat"
  (
    cd "$work"
    mkdir cut
    echo nfkc.nrm >list.txt
    icupkg -x list.txt "icudt${number}l.dat"
    icupkg -tl -a list.txt new "cut/icudt${number}l.dat"
    printf '%s\n' '.section .rodata' '.balign 16' ".globl icudt${number}_dat" ".type icudt${number}_dat, @object" \
      "icudt${number}_dat:" ".incbin \"cut/icudt${number}l.dat\"" ".size icudt${number}_dat, . - icudt${number}_dat" \
      '.section .note.GNU-stack, "", @progbits' >data.s
    gcc -shared -nostdlib "-Wl,-soname,$icu" -o "$icu" data.s
  )
  cp "$work/$icu" "$root/lib/$icu"
fi

find "$root" -name '*.so*' -exec strip --strip-unneeded {} +
strip --strip-unneeded "${programs[@]}"

newest=$(find "$root" -type f \( -name '*.so*' -o -perm -u+x ! -name '*.sh' \) -exec objdump -T {} + 2>/dev/null |
  grep -oE 'GLIBC_2\.[0-9]+' | sort -Vu | tail -n 1)
newest=${newest#GLIBC_}
if [ "$(printf '%s\n' "$newest" "$newest_glibc" | sort -V | tail -n 1)" != "$newest_glibc" ]; then
  echo "make_bundle.sh: needs glibc $newest, a bundle may need $newest_glibc; build it on Debian 12" >&2
  exit 1
fi

cat >"$root/BUNDLE.txt" <<TEXT
plait $version
commit $commit
Built $(date -u +%Y-%m-%d), CUDA $cuda. Needs glibc $newest or newer, nothing else: bin/plait --help.
On a machine with an NVIDIA GPU (Hopper): tools/gpu_check.sh .
lib/openmpi serves one rank. For many, remove it and use the machine's own Open MPI 4 or 5.
TEXT

tar -C "$(dirname "$root")" --sort=name --owner=0 --group=0 --numeric-owner -c "$name" | xz -T0 -6 >"$root.tar.xz"
bytes=$(stat -c %s "$root.tar.xz")
echo "$root.tar.xz: $bytes bytes, $(du -sm "$root" | cut -f1) MB unpacked; ${#programs[@]} programs," \
  "$(find "$root/lib" -type f | wc -l) libraries; glibc $newest or newer"
if [ "$bytes" -gt $most_bytes ]; then
  echo "make_bundle.sh: $bytes bytes, more than $most_bytes" >&2
  exit 1
fi
