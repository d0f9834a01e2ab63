#!/usr/bin/env bash
# Puts the libraries of a build with CUDA that toolkits lack, or have in other versions, into build/cuda-libraries:
# headers of cudnn-frontend and CUTLASS, cuDNN, NCCL. CMake looks there first. Nothing else on the machine changes.
#
# usage: tools/install_cuda_libraries.sh [--dry-run] [NAME...]
#   NAME       of cudnn-frontend, cutlass, cudnn, nccl; none: all four (1 GB, most of it cuDNN's and NCCL's kernels)
#   --dry-run  print what is missing, install nothing
#
# With Python's pip and its configured index. Quick when nothing is missing: no network then.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

declare -A requirement=(
  [cudnn-frontend]=nvidia-cudnn-frontend==1.32.0
  [cutlass]=nvidia-cutlass==4.2.0.0
  [cudnn]=nvidia-cudnn-cu13==9.19.0.56
  [nccl]=nvidia-nccl-cu13==2.28.9
)
folder=build/cuda-libraries

names=()
dry_run=0
for argument in "$@"; do
  case $argument in
    --dry-run) dry_run=1 ;;
    -h | --help) sed -n '2,/^set /{/^set /!s/^# \{0,1\}//p}' "$0"; exit 0 ;;
    *)
      if [ -z "${requirement[$argument]:-}" ]; then
        echo "install_cuda_libraries.sh: unknown library $argument (see --help)" >&2
        exit 2
      fi
      names+=("$argument")
      ;;
  esac
done
[ ${#names[@]} -gt 0 ] || names=(cudnn-frontend cutlass cudnn nccl)

missing=()
for name in "${names[@]}"; do
  package=${requirement[$name]}
  info=${package//-/_}  # what pip calls the folder of a package's description
  [ -d "$folder/${info/==/-}.dist-info" ] || missing+=("$package")
done
if [ ${#missing[@]} -eq 0 ]; then
  echo "cuda libraries: ${names[*]} are in $folder"
  exit 0
fi
echo "cuda libraries: missing ${missing[*]}"
[ "$dry_run" = 0 ] || exit 0

if ! python3 -m pip --version >/dev/null 2>&1; then
  echo "install_cuda_libraries.sh: needs Python's pip (Debian: python3-pip)" >&2
  exit 2
fi
mkdir -p "$folder"
# One by one: pip replaces only the folders of what it is asked for, and nvidia/ holds two of them.
for package in "${missing[@]}"; do
  part=$folder/part
  rm -rf "$part"
  PIP_ROOT_USER_ACTION=ignore python3 -m pip install --quiet --disable-pip-version-check --no-deps \
    --no-compile --target "$part" "$package"
  cp -a "$part/." "$folder/"
  rm -rf "$part"
done
echo "cuda libraries: installed ${missing[*]} into $folder; configure again"
