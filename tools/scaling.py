#!/usr/bin/env python3
"""Step time as tokens, layers and experts grow, and bytes as ranks grow: are they straight lines?

usage: tools/scaling.py [RECIPE] [--plait FILE] [--rounds N] [--ranks N] [--json]
  RECIPE      default recipes/library/demo_pretrain.textproto; its first stage
  --plait     the program, default build/release/tools/plait
  --rounds    times every point is measured, in turns (default 3); a point is its fastest round
  --ranks     the largest number of ranks whose bytes are measured (default 4; 1: none)

Times are those of `plait bench step` (median of five steps). Bytes need a recipe like the demo's, of two stages. For each quantity a line is fitted by least squares:
per unit, at nothing, and the largest distance of a point from the line as a share of the point. Bytes are what
`plait bench ranks` counted on the ranks of this host, beside (N - 1) / N of the most, which is how sharded gathers
and reductions grow.
"""

import argparse
import json
import re
import subprocess
import sys


def run(command):
    answer = subprocess.run(command, check=False, capture_output=True, text=True)
    if answer.returncode != 0:
        reasons = [line for line in answer.stderr.splitlines() if line.startswith("plait:")] or answer.stderr.splitlines()
        sys.exit(f"{' '.join(command)}: {reasons[0]}")
    return json.loads(answer.stdout.strip().splitlines()[-1])


def fit(points):
    """Least squares of y = slope x + start: slope, start, largest |y - line| / y."""
    count = len(points)
    mean_x = sum(x for x, _ in points) / count
    mean_y = sum(y for _, y in points) / count
    slope = sum((x - mean_x) * (y - mean_y) for x, y in points) / sum((x - mean_x) ** 2 for x, _ in points)
    start = mean_y - slope * mean_x
    return slope, start, max(abs(y - slope * x - start) / y for x, y in points)


def variations(recipe_text):
    """Quantity -> list of (size, settings)."""
    model = re.sub(r"#[^\n]*", "", recipe_text)
    pattern = re.search(r'\bpattern:\s*"(\w+)"', model)[1]
    number = lambda name: int(re.search(rf"\b{name}:\s*(\d+)", model)[1])
    rows, row_tokens, layers = number("rows_per_microbatch"), number("row_tokens"), number("layers")
    found = {
        "microbatches of a step": [
            (n, [f"stages.0.tokens_per_step={n * rows * row_tokens}"]) for n in (1, 2, 4, 8)
        ],
        "rows of a microbatch": [
            (n, [f"stages.0.rows_per_microbatch={n}", f"stages.0.tokens_per_step={n * row_tokens}"])
            for n in (2, 4, 8, 16)
        ],
        "times the layers": [
            (n, [f"model.layers={n * layers}", f"model.pattern={pattern * n}"]) for n in (1, 2, 3, 4)
        ],
    }
    if "e" in pattern:
        found["experts, two of them a token"] = [
            (n, [f"model.experts.experts={n}"]) for n in (4, 8, 16, 32)
        ]
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", nargs="?", default="recipes/library/demo_pretrain.textproto")
    parser.add_argument("--plait", default="build/release/tools/plait")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ranks", type=int, default=4)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with open(options.recipe, encoding="utf-8") as file:
        quantities = variations(file.read())

    best = {}
    for _ in range(options.rounds):
        for quantity, points in quantities.items():
            for size, settings in points:
                sets = [part for setting in settings for part in ("--set", setting)]
                step = run([options.plait, "bench", "step", options.recipe, "--json", *sets])
                key = (quantity, size)
                best[key] = min(best.get(key, float("inf")), step["median_seconds"])
                print(f"{quantity} {size}: {step['median_seconds']:.4f} s", file=sys.stderr)

    answer = {"recipe": options.recipe, "seconds": {}, "bytes": []}
    for quantity, points in quantities.items():
        timed = [(size, best[quantity, size]) for size, _ in points]
        slope, start, worst = fit(timed)
        answer["seconds"][quantity] = {
            "points": timed, "per_unit": slope, "at_nothing": start, "largest_distance": worst,
        }
    for ranks in range(2, options.ranks + 1):
        ways = run(["tools/launch/mpirun.sh", "-n", str(ranks), options.plait, "bench", "ranks", options.recipe,
                    "--rounds", "2", "--set", "stages.0.tokens_per_step=6144",
                    "--set", "stages.1.tokens_per_step=12288", "--json"])["ways"]
        answer["bytes"].append({"ranks": ranks, **{way["name"]: way["bytes_moved"] for way in ways}})

    if options.json:
        print(json.dumps(answer))
        return
    print(f"{'seconds a step':32}{'sizes: seconds':52}{'per unit':>10}{'at none':>10}{'off line':>10}")
    for quantity, line in answer["seconds"].items():
        points = "  ".join(f"{size}: {seconds:.3f}" for size, seconds in line["points"])
        print(f"{quantity:32}{points:52}{line['per_unit']:10.4f}{line['at_nothing']:10.4f}"
              f"{line['largest_distance']:10.1%}")
    for row in answer["bytes"]:
        moved = "  ".join(f"{name}: {count:,}" for name, count in row.items() if name != "ranks")
        print(f"bytes to a rank of {row['ranks']}, a step: {moved}")


if __name__ == "__main__":
    main()
