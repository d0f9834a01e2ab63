#!/usr/bin/env python3
"""A discounted bigram model over the run's own tokens: what counting alone reaches.

usage: tools/bigram_baseline.py DATA [--json]     DATA: folder written by `plait prepare`

Interpolated Kneser-Ney of order two (Kneser and Ney, 1995; interpolated as in Chen and Goodman,
1999), counted over all training tokens and measured on all held-out tokens:

  p(w | v)  = max(c(v,w) - D, 0) / c(v)  +  D * types(v) / c(v) * p1(w)
  p1(w)     = max(n(w) - d, 0) / n  +  d * seen / n * 1 / vocabulary

c counts pairs; types(v) = words seen after v; n(w) = words seen before w; n and seen are the sum and
the number of the n(w) > 0. Each discount is n1 / (n1 + 2 n2) of its counts (n1 seen once, n2
twice). A word never followed by anything falls back to p1.

Bits per byte are counted as in the trainer: the bits of every token of a document and of its EOS,
over the bytes of the text; each document starts from BOS. Needs h5dump (Debian: hdf5-tools); else
standard library only.
"""

import argparse
import array
import collections
import itertools
import json
import math
import pathlib
import re
import subprocess
import sys
import tempfile
import time

TOKENS = "tokens"  # dataset of a shard: every document as BOS text EOS, one after the other
TYPE_CODES = {
    "H5T_STD_U8LE": "B",
    "H5T_STD_U16LE": "H",
    "H5T_STD_U32LE": "I",
    "H5T_STD_I32LE": "i",
    "H5T_STD_I64LE": "q",
}


def h5dump(*arguments):
    try:
        result = subprocess.run(
            ["h5dump", *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
    except FileNotFoundError:
        sys.exit(
            "bigram_baseline: h5dump not found; install hdf5-tools (tools/install_dependencies.sh)"
        )
    if result.returncode != 0:
        sys.exit(
            f"bigram_baseline: h5dump {' '.join(arguments)}: {result.stdout.strip().splitlines()[-1]}"
        )
    return result.stdout


def read_dataset(path, name):
    """The flat integer dataset `name` of an HDF5 file, as an array."""
    header = h5dump("-H", "-d", name, str(path))
    match = re.search(r"DATATYPE\s+(\w+)", header)
    if not match or match[1] not in TYPE_CODES:
        sys.exit(
            f"bigram_baseline: {path}: {name}: expected little-endian integers, got {match and match[1]}"
        )
    values = array.array(TYPE_CODES[match[1]])
    with tempfile.NamedTemporaryFile() as file:
        h5dump("-d", name, "-b", "LE", "-o", file.name, str(path))
        values.frombytes(pathlib.Path(file.name).read_bytes())
    return values


def read_tokens(data, shards):
    """All tokens of the manifest's entries for one split, shard after shard."""
    arrays = (read_dataset(data / shard["file"], TOKENS) for shard in shards)
    return list(itertools.chain.from_iterable(arrays))


def discount(counts):
    """n1 / (n1 + 2 n2); one half where the counts are too few to say."""
    times = collections.Counter(counts)
    return times[1] / (times[1] + 2 * times[2]) if times[1] and times[2] else 0.5


class Bigram:
    """Interpolated Kneser-Ney over pairs of token ids."""

    def __init__(self, tokens, vocabulary, bos):
        # The step from a document's EOS to the next one's BOS is no prediction.
        self.pairs = collections.Counter(zip(tokens, itertools.islice(tokens, 1, None)))
        for pair in [pair for pair in self.pairs if pair[1] == bos]:
            del self.pairs[pair]
        self.discount = discount(self.pairs.values())
        self.count = collections.Counter()
        for (before, _), count in self.pairs.items():
            self.count[before] += count
        self.types = collections.Counter(before for before, _ in self.pairs)
        continuations = collections.Counter(word for _, word in self.pairs)
        lower = discount(continuations.values())
        total = len(self.pairs)
        uniform = lower * len(continuations) / total / vocabulary
        self.unigram = [
            max(continuations[word] - lower, 0) / total + uniform for word in range(vocabulary)
        ]

    def probability(self, before, word):
        count = self.count[before]
        if not count:
            return self.unigram[word]
        kept = max(self.pairs.get((before, word), 0) - self.discount, 0)
        return (kept + self.discount * self.types[before] * self.unigram[word]) / count

    def bits(self, tokens, bos):
        """Bits of every token but BOS, each given the one before it."""
        probabilities = (
            self.probability(before, word)
            for before, word in zip(tokens, tokens[1:])
            if word != bos
        )
        return -sum(map(math.log2, probabilities))


def read_manifest(data):
    """manifest.json of a prepared folder."""
    try:
        return json.loads((data / "manifest.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        sys.exit(f"bigram_baseline: {data}/manifest.json not found; run plait prepare first")


def measure(data):
    """The bigram's figures for a prepared folder."""
    started = time.monotonic()
    manifest = read_manifest(data)
    bos = manifest["tokenizer"]["bos_id"]
    train, heldout = (read_tokens(data, manifest[split]) for split in ("train", "heldout"))
    num_bytes = sum(shard["text_bytes"] for shard in manifest["heldout"])
    model = Bigram(train, manifest["tokenizer"]["vocabulary_size"], bos)
    return {
        "bits_per_byte": model.bits(heldout, bos) / num_bytes,
        "bytes_measured": num_bytes,
        "tokens_measured": len(heldout),
        "tokens_trained_on": len(train),
        "distinct_pairs": len(model.pairs),
        "discount": model.discount,
        "seconds": round(time.monotonic() - started, 1),
    }


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=pathlib.Path)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    result = measure(arguments.data)
    if arguments.json:
        print(json.dumps(result))
    else:
        print(
            f"Kneser-Ney bigram: {result['bits_per_byte']:.3f} bits per byte on "
            f"{result['bytes_measured']:,} bytes, counted over {result['tokens_trained_on']:,} tokens "
            f"in {result['seconds']} s"
        )


if __name__ == "__main__":
    main()
