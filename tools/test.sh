#!/usr/bin/env bash
# Installs what is missing, builds everything and runs the tests.
#
# usage: tools/test.sh [--slow] [--sanitize] [-R REGEX]
#   (none)      release build; every test but the slow ones: those on one process and, under mpirun, the ranked ones
#   --slow      the slow ones too
#   --sanitize  instead: the fast tests under AddressSanitizer and UndefinedBehaviorSanitizer, then those that
#               start threads under ThreadSanitizer
#   -R REGEX    only tests whose name matches
#
# Test names are <folder>_<file>_test. One test by hand: build/release/tests/<name> --gtest_filter=...
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

slow=0 sanitize=0 pattern=
while [ $# -gt 0 ]; do
  case $1 in
    --slow) slow=1 ;;
    --sanitize) sanitize=1 ;;
    -R) pattern=${2:?-R needs a regular expression}; shift ;;
    -h | --help) sed -n '2,/^set /{/^set /!s/^# \{0,1\}//p}' "$0"; exit 0 ;;
    *) echo "test.sh: unknown option $1 (see --help)" >&2; exit 2 ;;
  esac
  shift
done

started=$SECONDS
section() { printf '\n== %s  [%d s]\n' "$*" $((SECONDS - started)); }

# build PRESET [TARGET...]: configures and builds; on a failure only the compiler's words about it.
build() {
  local preset=$1 log=build/$1.log
  shift
  mkdir -p build
  section "build $preset"
  if ! { cmake --preset "$preset" -DPLAIT_TESTS=ON && ninja -C "build/$preset" "$@"; } >"$log" 2>&1; then
    grep -E -A 12 'FAILED|error|Error' "$log" | head -n 80 || tail -n 40 "$log"
    echo "test.sh: building $preset failed; all of it in $log" >&2
    return 1
  fi
  grep -E '^-- plait:' "$log" || true
  grep -E 'warning:' "$log" || true
  tail -n 1 "$log"
}

# check PRESET [CTEST OPTION...]: one line a test, the output of those that fail, ctest's summary last.
check() {
  local preset=$1
  shift
  section "test $preset"
  ctest --test-dir "build/$preset" --no-tests=error --output-on-failure -j "$(nproc)" \
    ${pattern:+-R "$pattern"} "$@"
}

# Idle OpenMP threads must not spin: tests run side by side.
export OMP_WAIT_POLICY=passive

section "dependencies"
tools/install_dependencies.sh

if [ "$sanitize" = 0 ]; then
  build release
  skipped=(-LE slow)
  [ "$slow" = 0 ] || skipped=()
  check release "${skipped[@]}"
  exit
fi

# What the sanitizers are told is in cmake/targets.cmake: it holds for a plain ctest, too.
build asan-ubsan
check asan-ubsan -L fast

# Only tests of code that starts threads of its own (see CONTRIBUTING.md, Sanitizers).
threaded=()
starts_threads='std::(jthread|thread|async)\b|data/prefetching_loader\.h|base/early_writeback\.h|SegmentedDigest|parallel/local_communicator\.h|trainer/trainer\.h'
for source in $(grep -lE "$starts_threads" tests/*/*_test.cc || true); do
  name=${source#tests/}
  name=${name%.cc}
  # Under MPI there is no sanitizer (tests/CMakeLists.txt). Whole runs on many ranks, the largest steps and blocks on
  # dozens of ranks take ten minutes each; layouts_test runs the same communicators and the same sharder.
  case $name in
    *_slow_test | distributed/* | model/*) ;;
    trainer/memory_plan_test | trainer/ranked_run_test | trainer/pipeline_test | trainer/device_run_test) ;;
    *) threaded+=("${name/\//_}") ;;
  esac
done
build tsan "${threaded[@]}"
pattern=${pattern:-^($(IFS='|'; echo "${threaded[*]}"))\$}
check tsan
