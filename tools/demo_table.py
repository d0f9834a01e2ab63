#!/usr/bin/env python3
"""The demo's closing table: what the run learned, beside two baselines on the same held-out text.

usage: tools/demo_table.py --run RUN --data DATA --heldout HELDOUT.jsonl
                           [--sample FILE]... [--seconds N] [--must-beat-xz]

Reads RUN/metrics.jsonl (one JSON object a line; "event" is step, evaluation, start or stop), takes
`xz -9e` and the bigram of bigram_baseline.py on the held-out text (kept in baselines.json beside it)
and prints. With --must-beat-xz, exit 1 where the held-out bits per byte after training are not
below xz's. Standard library only.
"""

import argparse
import hashlib
import json
import lzma
import pathlib
import statistics
import sys

import bigram_baseline


def read_events(path):
    """Events by kind, in file order. A line cut short by a killed run is skipped."""
    events = {"start": [], "step": [], "evaluation": [], "stop": []}
    with open(path, encoding="utf-8") as file:
        for line in file:
            try:
                event = json.loads(line)
            except json.JSONDecodeError:
                continue
            events.setdefault(event.get("event"), []).append(event)
    return events


def summarize(events):
    """The run in a few values. Steps repeated after a resume count once, the later line wins."""
    evaluations = sorted({event["step"]: event for event in events["evaluation"]}.items())
    steps = {event["step"]: event for event in events["step"]}
    speeds = [
        event["tokens_per_second"] for event in steps.values() if event.get("tokens_per_second")
    ]
    return {
        "before": evaluations[0][1] if evaluations else {},
        "after": evaluations[-1][1] if len(evaluations) > 1 else {},
        "last_step": max(steps, default=0),
        "tokens_per_second": statistics.median(speeds) if speeds else None,
        "starts": len(events["start"]),
    }


def baselines(data, heldout):
    """Bits per byte of xz and of the bigram; computed once for the same text and shards."""
    with open(heldout, encoding="utf-8") as file:
        texts = [json.loads(line)["text"].encode() for line in file]
    text = b"\n".join(texts)
    manifest = json.dumps(bigram_baseline.read_manifest(data))
    key = hashlib.sha256(text + manifest.encode()).hexdigest()
    kept = heldout.parent / "baselines.json"
    if kept.exists():
        values = json.loads(kept.read_text(encoding="utf-8"))
        if values.get("key") == key:
            return values
    num_bytes = sum(map(len, texts))
    # The same algorithm and setting as the command xz -9e.
    compressed = len(lzma.compress(text, preset=9 | lzma.PRESET_EXTREME))
    bigram = bigram_baseline.measure(data)
    values = {
        "key": key,
        "bytes": num_bytes,
        "xz": 8 * compressed / num_bytes,
        "bigram": bigram["bits_per_byte"],
        "bigram_tokens": bigram["tokens_trained_on"],
    }
    kept.write_text(json.dumps(values) + "\n", encoding="utf-8")
    return values


def number(value, digits=3):
    return "-" if value is None else f"{value:,.{digits}f}"


def print_table(run, summary, reference, samples, seconds):
    rows = [
        ("before training", summary["before"].get("loss"), summary["before"].get("bits_per_byte")),
        ("after training", summary["after"].get("loss"), summary["after"].get("bits_per_byte")),
        ("xz -9e, the held-out text alone", None, reference["xz"]),
        (f"Kneser-Ney bigram, {reference['bigram_tokens']:,} tokens", None, reference["bigram"]),
    ]
    print(
        f"{'held-out text, ' + format(reference['bytes'], ',') + ' bytes':44}{'loss':>9}{'bits/byte':>12}"
    )
    for name, loss, bits in rows:
        print(f"  {name:42}{number(loss):>9}{number(bits):>12}")
    print(f"steps       {summary['last_step']:,} in {summary['starts']} starts")
    print(f"tokens/s    {number(summary['tokens_per_second'], 0)} (median over steps)")
    if seconds is not None:
        print(f"time        {seconds // 60} min {seconds % 60} s, this command from start to end")
    checkpoints = sorted((run / "checkpoints").glob("step-*"))
    print(f"checkpoint  {checkpoints[-1] if checkpoints else '-'}")
    for sample in samples:
        text = sample.read_text(encoding="utf-8", errors="replace").strip()
        print(
            f"sample      {sample.stem}\n" + "\n".join("  | " + line for line in text.split("\n"))
        )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", type=pathlib.Path, required=True)
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--heldout", type=pathlib.Path, required=True)
    parser.add_argument("--sample", type=pathlib.Path, action="append", default=[])
    parser.add_argument("--seconds", type=int)
    parser.add_argument("--must-beat-xz", action="store_true")
    arguments = parser.parse_args()
    metrics = arguments.run / "metrics.jsonl"
    if not metrics.exists():
        sys.exit(f"demo_table: {metrics}: not found; did plait train run?")
    summary = summarize(read_events(metrics))
    reference = baselines(arguments.data, arguments.heldout)
    print_table(arguments.run, summary, reference, arguments.sample, arguments.seconds)
    after = summary["after"].get("bits_per_byte")
    if arguments.must_beat_xz and (after is None or after >= reference["xz"]):
        print(
            f"demo_table: held-out bits per byte after training {number(after)} is not below xz's "
            f"{number(reference['xz'])}",
            file=sys.stderr,
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
