#!/usr/bin/env bash
# From raw text to a trained hybrid model that continues a prompt, in one command.
#
# usage: tools/demo.sh [--quick | --steps-scale X] [--fresh] [--output DIR]
#   (none)           the recipe's steps: minutes on two cores with AVX512_BF16
#   --quick          a tenth of the steps, in a run folder of its own: shows that all parts work
#   --steps-scale X  X times the recipe's steps (0.5, 2, ...), in a run folder of its own
#   --fresh          forget the earlier run (packages, text and prepared data are kept)
#   --output DIR     everything goes here; default runs/demo
#
# Installs what is missing, builds plait, collects text in seven languages, prepares it, trains on two
# ranks up to the middle and on one from there, generates, and prints a table. What is done is not done again. As root, or as a
# user who may use sudo (only where a package is missing).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

scale=1 quick=0 fresh=0 output=runs/demo
while [ $# -gt 0 ]; do
  case $1 in
    --quick) quick=1 scale=0.1 ;;
    --steps-scale) scale=${2:?--steps-scale needs a number}; shift ;;
    --fresh) fresh=1 ;;
    --output) output=${2:?--output needs a folder}; shift ;;
    -h | --help) sed -n '2,/^set /{/^set /!s/^# \{0,1\}//p}' "$0"; exit 0 ;;
    *) echo "demo.sh: unknown option $1 (see --help)" >&2; exit 2 ;;
  esac
  shift
done
if ! [[ $scale =~ ^[0-9]*\.?[0-9]+$ ]]; then
  echo "demo.sh: --steps-scale: expected a positive number, got $scale" >&2
  exit 2
fi

recipe=recipes/library/demo_pretrain.textproto
vocabulary=4096  # as in the recipe
text=$output/text data=$output/data
run=$output/run
[ "$scale" = 1 ] || run=$output/run-x$scale
plait=build/release/tools/plait
started=$SECONDS

section() { printf '\n== %s  [%d s]\n' "$*" $((SECONDS - started)); }

section "dependencies"
tools/install_dependencies.sh --build

section "build"
if [ ! -f build/release/CMakeCache.txt ]; then
  cmake --preset release -DPLAIT_TESTS=OFF >/dev/null
fi
ninja -C build/release plait | tail -n 1

section "text"
if [ -f "$text/heldout.jsonl" ]; then
  echo "already collected: $text"
else
  # The held-out file is written last, so it stands for both.
  python3 tools/collect_demo_text.py --cache "$output/packages" --output "$text"
fi

section "prepare"
if [ -f "$data/manifest.json" ]; then
  echo "already prepared: $data"
else
  "$plait" prepare --input "$text/train.jsonl" --heldout "$text/heldout.jsonl" \
    --vocabulary "$vocabulary" --output "$data"
fi

# The recipe's steps, stage by stage, times the scale; at least four each, the warm-up shortened along.
settings=(--set "data.path=$data")
total_steps=0
while read -r stage steps warmup; do
  total_steps=$((total_steps + steps))
  [ "$scale" = 1 ] && continue
  settings+=(--set "stages.$stage.steps=$steps")
  [ "$warmup" = - ] || settings+=(--set "stages.$stage.schedule.warmup_steps=$warmup")
done < <(python3 - "$recipe" "$scale" <<'PYTHON'
import re, sys
text = re.sub(r"#[^\n]*", "", open(sys.argv[1], encoding="utf-8").read())
scale = float(sys.argv[2])
for index, stage in enumerate(re.split(r"^stages\s*:?\s*{", text, flags=re.MULTILINE)[1:]):
    stage = re.split(r"^}", stage, flags=re.MULTILINE)[0]
    value = lambda name: re.search(rf"\b(?<!_){name}:\s*(\d+)", stage)
    steps = max(4, round(int(value("steps")[1]) * scale))
    warmup = value("warmup_steps")
    print(index, steps, min(steps - 1, max(1, round(int(warmup[1]) * scale))) if warmup else "-")
PYTHON
)

[ "$fresh" = 0 ] || rm -rf "$run"
section "train: $total_steps steps, on two ranks up to the middle, then resumed on one"
finished=$run/finished
if [ -f "$finished" ]; then
  echo "already trained: $run (--fresh starts anew)"
else
  if ! compgen -G "$run/checkpoints/step-*" >/dev/null; then
    # Nothing to resume: a first part, up to the middle.
    rm -rf "$run"
    tools/launch/mpirun.sh -n 2 "$plait" train "$recipe" --output "$run" "${settings[@]}" \
      --set "debug.stop_after_steps=$((total_steps / 2))"
  fi
  "$plait" train "$recipe" --output "$run" "${settings[@]}" --resume
  touch "$finished"
fi

section "generate"
samples=()
generate() { # name prompt
  "$plait" generate "$run" --prompt "$2" --max-tokens 80 --temperature 0.7 --top-p 0.9 --seed 1 \
    >"$run/sample_$1.txt"
  samples+=(--sample "$run/sample_$1.txt")
}
generate english "To insert a table into the document, choose"
generate german "Wählen Sie im Menü"
echo "two samples, below"

section "result"
check=()
[ "$quick" = 1 ] || [ "$scale" != 1 ] || check=(--must-beat-xz)
python3 tools/demo_table.py --run "$run" --data "$data" --heldout "$text/heldout.jsonl" \
  --seconds $((SECONDS - started)) "${samples[@]}" "${check[@]}"
