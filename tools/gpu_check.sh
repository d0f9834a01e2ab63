#!/usr/bin/env bash
# Runs every GPU test, then the benchmarks, on a machine with an NVIDIA GPU; one table, and a JSON.
#
# Benchmarks: matrix products, every kernel, steps of a hybrid of a billion parameters (tokens/s, share of the GPU's peak,
# memory), and fifty steps of the demo's recipe on the GPU and on the CPU, whose losses must agree.
#
# usage: tools/gpu_check.sh BUNDLE|FOLDER [--json FILE] [--seconds N]
#   BUNDLE       plait-*.tar.xz of tools/make_bundle.sh, or FOLDER: what it unpacks to, or a build folder
#   --json FILE  everything that the table says, and more; default gpu_check.json beside the logs
#   --seconds N  ends within N seconds (600); what is not done by then has failed
#
# The machine needs a driver, and cuBLAS, cuDNN 9 and NCCL either in a CUDA toolkit or in Python's nvidia-* packages;
# where they were found is in the table. PLAIT_CUDA_LIBRARIES (folders, colons between) is looked through first. No
# Python, no network, nothing installed. Logs go to ./gpu_check_logs.
#
# Exit code: 0 all passed, 1 something failed, 2 wrong command line or no GPU.
set -uo pipefail

bundle='' json='' limit=600
while [ $# -gt 0 ]; do
  case $1 in
    --json) json=${2:?--json needs a file}; shift ;;
    --seconds) limit=${2:?--seconds needs a number}; shift ;;
    -h | --help) sed -n '2,/^set /{/^set /!s/^# \{0,1\}//p}' "$0"; exit 0 ;;
    -*) echo "gpu_check.sh: unknown option $1 (see --help)" >&2; exit 2 ;;
    *) [ -z "$bundle" ] || { echo "gpu_check.sh: one bundle, not $bundle and $1" >&2; exit 2; }; bundle=$1 ;;
  esac
  shift
done
[ -n "$bundle" ] || { echo "gpu_check.sh: which bundle or folder? (see --help)" >&2; exit 2; }
[ -e "$bundle" ] || { echo "gpu_check.sh: there is no $bundle" >&2; exit 2; }
[[ $limit =~ ^[1-9][0-9]*$ ]] || { echo "gpu_check.sh: --seconds: expected a number, got $limit" >&2; exit 2; }

logs=$PWD/gpu_check_logs
mkdir -p "$logs"
json=${json:-$logs/gpu_check.json}
left() { echo $((limit - SECONDS > 1 ? limit - SECONDS : 1)); }

if [ -f "$bundle" ]; then
  rm -rf "$logs/bundle"
  mkdir -p "$logs/bundle"
  tar -xf "$bundle" -C "$logs/bundle" --strip-components=1 ||
    { echo "gpu_check.sh: cannot unpack $bundle (tar needs xz; or give a folder)" >&2; exit 2; }
  bundle=$logs/bundle
fi
bundle=$(cd "$bundle" && pwd)
plait=
for place in bin/plait tools/plait; do [ ! -x "$bundle/$place" ] || plait=$bundle/$place; done
tests=()
for test in "$bundle"/gpu_tests/*_gpu_test "$bundle"/tests/*_gpu_test; do [ ! -x "$test" ] || tests+=("$test"); done
[ ${#tests[@]} -gt 0 ] || { echo "gpu_check.sh: no *_gpu_test in $bundle/gpu_tests or $bundle/tests" >&2; exit 2; }

# Folders that may have CUDA's libraries, those of a toolkit before Python's.
candidates() {
  local folder
  tr : '\n' <<<"${PLAIT_CUDA_LIBRARIES-}:${LD_LIBRARY_PATH-}"
  for folder in ${CUDA_HOME:+"$CUDA_HOME"} ${CUDA_PATH:+"$CUDA_PATH"} /usr/local/cuda /usr/local/cuda-* /opt/cuda; do
    printf '%s\n' "$folder/lib64" "$folder/targets/x86_64-linux/lib"
  done
  printf '%s\n' /usr/lib/x86_64-linux-gnu /usr/lib64
  for folder in ${VIRTUAL_ENV:+"$VIRTUAL_ENV"} ${CONDA_PREFIX:+"$CONDA_PREFIX"} "${HOME-}/.local" /usr/local /usr /opt/conda \
    /opt/venv; do
    printf '%s\n' "$folder"/lib/python3*/{site,dist}-packages/nvidia/*/lib
  done
}

libraries=() library_json='' found_folders=''
for library in libcublasLt.so.13 libcudnn.so.9 libnccl.so.2; do
  where='not found'
  while read -r folder; do
    [ -n "$folder" ] && [ -e "$folder/$library" ] || continue
    where=$folder
    # The system's folders are searched anyway, and would put the system's other libraries first.
    case $folder in /usr/lib/x86_64-linux-gnu | /usr/lib64) ;; *) found_folders+=:$folder ;; esac
    break
  done < <(candidates)
  libraries+=("$library  $where")
  library_json+="${library_json:+, }\"$library\": \"$where\""
done
export LD_LIBRARY_PATH=${found_folders#:}${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}

# Every GPU test says first whether there is a device, with exit code 77 where there is none.
probe=$("${tests[0]}" --gtest_list_tests 2>&1)
code=$?
if [ $code = 77 ]; then
  echo "gpu_check.sh: no GPU that can be used: ${probe#skipped: }" >&2
  exit 2
elif [ $code != 0 ]; then
  echo "gpu_check.sh: ${tests[0]##*/} does not start: $(tail -n 1 <<<"$probe")" >&2
  exit 1
fi
device=$(sed -n 's/^on //p' <<<"$probe" | head -n 1)

failed=0 rows=() test_json=''
for test in "${tests[@]}"; do
  name=${test##*/} begun=$SECONDS
  (cd "$bundle" && timeout --kill-after=5 "$(left)" "$test") >"$logs/$name.log" 2>&1 </dev/null
  code=$? result=passed
  case $code in
    0) ;;
    77) result=skipped ;;
    124 | 137) result='out of time' ;;
    *) result=FAILED ;;
  esac
  passes=$(sed -n 's/^\[  PASSED  \] \([0-9]*\) tests\{0,1\}\.$/\1/p' "$logs/$name.log" | tail -n 1)
  # Without a test that ran nothing was shown.
  [ "$result" != passed ] || [ "${passes:-0}" -gt 0 ] || result='ran no test'
  [ "$result" = passed ] || failed=$((failed + 1))
  rows+=("$(printf '%-44s %-12s %3s tests  %4d s' "$name" "$result" "${passes:-0}" $((SECONDS - begun)))")
  test_json+="${test_json:+, }{\"name\": \"$name\", \"result\": \"$result\", \"exit_code\": $code, \"passed_tests\": ${passes:-0}, \"seconds\": $((SECONDS - begun))}"
done

# bench NAME [ARGUMENT...]: `plait bench NAME ARGUMENT... --json` to NAME.json, which is there if it passed.
benchmark_json=''
bench() {
  local name=$1 begun=$SECONDS code result=passed
  shift
  timeout --kill-after=5 "$(left)" "$plait" bench "$name" "$@" --json >"$logs/$name.out" 2>"$logs/$name.log" </dev/null
  code=$?
  # Losses that do not agree are an answer as well.
  if [ $code = 0 ] || [ -s "$logs/$name.out" ]; then mv "$logs/$name.out" "$logs/$name.json"; fi
  case $code in
    0) ;;
    124 | 137) result='out of time' ;;
    *) result=FAILED ;;
  esac
  if [ $code = 0 ] && [ ! -s "$logs/$name.json" ]; then result='no answer'; fi
  if [ "$result" != passed ]; then
    failed=$((failed + 1))
    rows+=("$(printf '%-44s %-12s %s' "bench $name" "$result" "$(tail -n 1 "$logs/$name.log")")")
  else
    rows+=("$(printf '%-44s %-12s            %4d s' "bench $name" "$result" $((SECONDS - begun)))")
  fi
  [ ! -s "$logs/$name.json" ] || benchmark_json+=", \"$name\": $(cat "$logs/$name.json")"
}
recipes=
for place in "$bundle/recipes/library" "$(dirname "${BASH_SOURCE[0]}")/../recipes/library"; do
  [ -n "$recipes" ] || [ ! -d "$place" ] || recipes=$(cd "$place" && pwd)
done
rm -f "$logs"/{gemm,kernels,step,devices}.json
if [ -n "$plait" ]; then
  bench gemm --device CUDA
  bench kernels --device CUDA
  # Eight microbatches a step; a few steps tell a GPU's speed.
  bench step "$recipes/hybrid_1b.textproto" --set trainer.device=CUDA --set stages.0.tokens_per_step=65536
  bench devices "$recipes/demo_pretrain.textproto" --steps 50
else
  rows+=("no plait in $bundle: no benchmarks")
fi

# number FILE FIELD: of a flat JSON object; nothing where it has no such number.
number() { sed -n "s/.*\"$2\":\([-+0-9.eE]*\).*/\1/p" "$1"; }
step_table() {
  local file=$logs/step.json
  awk -v seconds="$(number "$file" median_seconds)" -v tokens="$(number "$file" tokens_per_second)" \
    -v flops="$(number "$file" model_flops_per_second)" -v peak="$(number "$file" peak_flops_per_second)" \
    -v gemm="$(number "$file" share_of_gemm_peak)" -v bytes="$(number "$file" allocated_bytes_peak)" 'BEGIN {
      printf "hybrid_1b, one rank: %.0f ms a step, %.0f tokens/s, %.1f TFLOP/s of the model", 1e3 * seconds, tokens, flops / 1e12
      if (peak > 0) printf " = %.1f %% of %.0f (MFU)", 100 * flops / peak, peak / 1e12
      printf ", %.1f %% of the GEMM peak; tensors %.1f GB at most\n", 100 * gemm, bytes / 1e9
    }'
}
devices_table() {
  local file=$logs/devices.json
  awk -v steps="$(number "$file" steps)" -v difference="$(number "$file" largest_difference)" \
    -v at="$(number "$file" largest_at_step)" -v bound="$(number "$file" bound)" \
    -v device="$(number "$file" device_step_seconds)" -v cpu="$(number "$file" cpu_step_seconds)" 'BEGIN {
      if (difference == "") difference = "not a number"
      printf "losses of %d steps, GPU and CPU at bf16: %s apart at most (step %d), bound %s; %.1f and %.1f ms a step\n", \
        steps, difference, at, bound, 1e3 * device, 1e3 * cpu
    }'
}

# One line a kernel of kernels.json, whose objects are flat.
kernel_table() {
  tr '{}' '\n\n' <"$logs/kernels.json" | awk '
    function field(name,  start, rest) {
      start = index($0, "\"" name "\":")
      if (start == 0) return ""
      rest = substr($0, start + length(name) + 3)
      if (substr(rest, 1, 1) == "\"") { rest = substr(rest, 2); return substr(rest, 1, index(rest, "\"") - 1) }
      sub(/[,\]].*/, "", rest)
      return rest
    }
    field("operation") == "" { next }
    field("refusal") != "" { printf "%-31s %-12s refused: %s\n", field("operation"), field("implementation"), field("refusal"); next }
    {
      share = field("share_of_limit")
      line = sprintf("%-31s %-12s %10.1f us", field("operation"), field("implementation"), 1e6 * field("seconds"))
      line = line sprintf("  %8.1f GB/s  %8.1f TFLOP/s", field("bytes_per_second") / 1e9, field("flops_per_second") / 1e12)
      if (share != "") {
        line = line sprintf("  %5.1f %% of %-4s", 100 * share, field("limit"))
        if (field("goal") > 0) line = line sprintf("  goal %2.0f %%%s", 100 * field("goal"), share < field("goal") ? "" : ", reached")
      }
      print line "  (" field("shape") ")"
    }'
}

commit=$(sed -n 's/^commit //p' "$bundle/BUNDLE.txt" 2>/dev/null | head -n 1)
date=$(date -u +%Y-%m-%dT%H:%M:%SZ)
printf 'plait %s on %s, %s\n' "${commit:-of a build folder}" "${device:-an unnamed device}" "$date"
printf '%s\n' "${libraries[@]}"
printf '\n'
printf '%s\n' "${rows[@]}"
for benchmark in step devices; do
  if [ -s "$logs/$benchmark.json" ]; then printf '\n%s\n' "$("${benchmark}_table")"; fi
done
if [ -s "$logs/kernels.json" ]; then
  printf '\n'
  kernel_table
fi
printf '{"device": "%s", "commit": "%s", "date": "%s", "seconds": %d, "failed": %d, "libraries": {%s}, "tests": [%s]%s}\n' \
  "$device" "$commit" "$date" "$SECONDS" "$failed" "$library_json" "$test_json" "$benchmark_json" >"$json" ||
  { echo "gpu_check.sh: cannot write $json" >&2; exit 1; }
printf '\n%d failed, %d s; %s\n' "$failed" "$SECONDS" "$json"
[ "$failed" = 0 ]
