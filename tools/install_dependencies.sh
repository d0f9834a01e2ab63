#!/usr/bin/env bash
# Installs the Debian 12 packages that plait needs, and only those that are missing.
#
# usage: tools/install_dependencies.sh [--build] [--dry-run]
#   (none)     everything: build, run, test, format
#   --build    what `plait` itself needs to be built and run: no test libraries, no formatter
#   --dry-run  print the missing packages, install nothing
#
# As root, or as a user who may use sudo. Quick when nothing is missing: no network then.
set -euo pipefail

build_packages=(
  cmake ninja-build g++ ccache pkg-config git python3 xz-utils hdf5-tools
  libabsl-dev libprotobuf-dev protobuf-compiler libhdf5-dev libdnnl-dev ocl-icd-opencl-dev
  libsentencepiece-dev libhwy-dev librandom123-dev libcli11-dev libxxhash-dev libsimdjson-dev
  nlohmann-json3-dev libzstd-dev zlib1g-dev libicu-dev libboost-context-dev libopenmpi-dev openmpi-bin
)
development_packages=(
  libgtest-dev libgmock-dev libbenchmark-dev clang-format-14
)

packages=("${build_packages[@]}" "${development_packages[@]}")
dry_run=0
for argument in "$@"; do
  case $argument in
    --build) packages=("${build_packages[@]}") ;;
    --dry-run) dry_run=1 ;;
    -h | --help) sed -n '2,/^set /{/^set /!s/^# \{0,1\}//p}' "$0"; exit 0 ;;
    *) echo "install_dependencies.sh: unknown option $argument (see --help)" >&2; exit 2 ;;
  esac
done

if ! command -v dpkg-query >/dev/null; then
  echo "install_dependencies.sh: this is not Debian; install by hand: ${packages[*]}" >&2
  exit 2
fi

# One line a package that is fully installed; whatever is not among them is missing.
installed=$(dpkg-query -W -f '${db:Status-Abbrev}|${Package}\n' "${packages[@]}" 2>/dev/null |
  sed -n 's/^ii *|//p' || true)
missing=()
for package in "${packages[@]}"; do
  grep -qxF -- "$package" <<<"$installed" || missing+=("$package")
done
if [ ${#missing[@]} -eq 0 ]; then
  echo "dependencies: all ${#packages[@]} packages are installed"
  exit 0
fi
echo "dependencies: missing ${missing[*]}"
[ "$dry_run" = 0 ] || exit 0

as_root=()
if [ "$(id -u)" != 0 ]; then
  if ! command -v sudo >/dev/null; then
    echo "install_dependencies.sh: run as root, or install sudo; needed: ${missing[*]}" >&2
    exit 2
  fi
  as_root=(sudo)
fi
"${as_root[@]}" apt-get update -qq
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
  -o Dpkg::Use-Pty=0 "${missing[@]}" >/dev/null
echo "dependencies: installed ${#missing[@]} packages"
