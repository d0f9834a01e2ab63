#!/usr/bin/env python3
"""Encodes and decodes the lines of a text with plait and with the `tokenizers` package in turns, one thread each, and
prints the medians and their ratio.

usage: tools/compare_tokenizer_speed.py PLAIT TOKENIZER.json TEXT [--rounds 5]
needs: the `tokenizers` package
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import time

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["RAYON_NUM_THREADS"] = "1"

from tokenizers import Tokenizer  # noqa: E402  (reads the environment)


def package(path, lines):
    tokenizer = Tokenizer.from_file(path)  # anew: its cache begins empty
    tokenizer.encode_special_tokens = True
    start = time.perf_counter()
    encodings = tokenizer.encode_batch_fast(lines, add_special_tokens=False)
    middle = time.perf_counter()
    tokenizer.decode_batch([encoding.ids for encoding in encodings])
    return middle - start, time.perf_counter() - middle, sum(len(encoding.ids) for encoding in encodings)


def plait(executable, path, text):
    command = [executable, "bench", "tokenizer", path, text, "--rounds", "1", "--json"]
    answer = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return answer["encode_seconds"], answer["decode_seconds"], answer["tokens"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plait")
    parser.add_argument("tokenizer")
    parser.add_argument("text")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    content = pathlib.Path(options.text).read_bytes()
    lines = content.decode("utf-8").split("\n")
    if not lines[-1]:
        lines.pop()
    rounds = [
        (plait(options.plait, options.tokenizer, options.text), package(options.tokenizer, lines))
        for _ in range(options.rounds)
    ]
    if any(ours[2] != theirs[2] for ours, theirs in rounds):
        raise SystemExit(f"{rounds[0][0][2]} tokens by plait, {rounds[0][1][2]} by the package")
    for name, column in (("encode", 0), ("decode", 1)):
        ours, theirs = (statistics.median(result[side][column] for result in rounds) for side in (0, 1))
        megabytes = len(content) / 1e6
        print(f"{name}: plait {megabytes / ours:.1f} MB/s, tokenizers {megabytes / theirs:.1f} MB/s, ratio {theirs / ours:.2f}")


if __name__ == "__main__":
    main()
