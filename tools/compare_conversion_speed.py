#!/usr/bin/env python3
"""Converts a model folder of random bytes to a checkpoint and back and copies the same bytes with `cp`, in turns,
and prints medians, ratios and the largest resident memory of a process.

usage: tools/compare_conversion_speed.py PLAIT SCRATCH [--model jamba] [--ranks 1] [--files 1] [--gigabytes 1] [--rounds 8]

SCRATCH (a folder to be made and removed) needs three times the room of the model. `plait convert` ends with its bytes on
the device, so `cp` is timed with the `sync` that follows, and shown without. Before each: what was made last is removed,
sync, and what is to be read is read, so that it comes from memory. Conversion and copy take turns in being
first: a virtual machine whose host is short of memory gives freed memory back within seconds and gets it again slowly,
so that what comes after a pause is several times as slow, whichever it is. Look at the spread. What a small model
takes (mpirun's start above all) is shown apart: it does not grow with the model.
"""

import argparse
import hashlib
import json
import os
import pathlib
import resource
import shutil
import statistics
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests/support"))
import model_folder as mf  # noqa: E402  (found by the line above)

TINY = dict(mf.LLAMA, hidden_size=512)  # some MB

# Layers as wide as those of Jamba Mini (its feed-forward parts a quarter) and of Llama 2 7B; their number follows from
# the size asked for.
SIZES = {
    "jamba": dict(mf.JAMBA, vocab_size=65536, hidden_size=4096, intermediate_size=3584, num_attention_heads=32,
                  num_key_value_heads=8, attn_layer_period=2, attn_layer_offset=1, num_experts=8, mamba_d_state=16,
                  mamba_dt_rank=256),
    "llama": dict(mf.LLAMA, vocab_size=32000, hidden_size=4096, intermediate_size=11008, num_attention_heads=32,
                  num_key_value_heads=32),
}


def model_of(sizes, gigabytes):
    config = dict(sizes, num_hidden_layers=1)
    while True:
        shapes = mf.shapes_of(config)
        if sum(2 * mf.elements(shape) for shape in shapes.values()) >= gigabytes * 1e9:
            return config, shapes
        config["num_hidden_layers"] += 1


def write_model(folder, config, shapes, files):
    """Random BF16 tensors, experts one by one, in so many files."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(dict(config, torch_dtype="bfloat16")))
    names = sorted(shapes)
    names_of_file = {}
    weight_map = {}
    for i, name in enumerate(names):
        number = i * files // len(names) + 1
        file = "model.safetensors" if files == 1 else f"model-{number:05}-of-{files:05}.safetensors"
        names_of_file.setdefault(file, []).append(name)
        weight_map[name] = file
    total = 0
    for file, in_file in names_of_file.items():
        header, end = {"__metadata__": {"format": "pt"}}, 0
        for name in in_file:
            begin, end = end, end + 2 * mf.elements(shapes[name])
            header[name] = {"dtype": "BF16", "shape": shapes[name], "data_offsets": [begin, end]}
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        with open(folder / file, "wb") as out:
            out.write(len(text).to_bytes(8, "little") + text)
            for left in range(end, 0, -(1 << 24)):
                out.write(os.urandom(min(left, 1 << 24)))
        total += end
    if files > 1:
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return total


def timed(command, source):
    """(seconds until it ended, seconds until its bytes are on the device, peak KiB of its largest process)."""
    for path in source.iterdir():
        with open(path, "rb", buffering=0) as file:
            while file.read(1 << 20):
                pass
    os.sync()
    read, write = os.pipe()
    begin = time.perf_counter()
    child = os.fork()
    if child == 0:  # a process of its own, so that the peak is that of this command alone
        os.close(read)
        code = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False).returncode
        os.write(write, str(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss).encode())
        os._exit(code)
    os.close(write)
    _, status = os.waitpid(child, 0)
    ended = time.perf_counter() - begin
    os.sync()
    synced = time.perf_counter() - begin
    with os.fdopen(read) as peak:
        kilobytes = int(peak.read() or 0)
    if status != 0:
        raise SystemExit(f"{' '.join(map(str, command))}: failed")
    return ended, synced, kilobytes


def digests(folder):
    """(dtype, shape, SHA-256) of each tensor by name."""
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        with open(path, "rb") as file:
            size = int.from_bytes(file.read(8), "little")
            for name, entry in json.loads(file.read(size)).items():
                if name == "__metadata__":
                    continue
                begin, end = entry["data_offsets"]
                file.seek(8 + size + begin)
                digest = hashlib.sha256()
                for left in range(end - begin, 0, -(1 << 24)):
                    digest.update(file.read(min(left, 1 << 24)))
                found[name] = (entry["dtype"], tuple(entry["shape"]), digest.hexdigest())
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plait")
    parser.add_argument("scratch", type=pathlib.Path)
    parser.add_argument("--model", choices=SIZES, default="jamba")
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--files", type=int, default=1)
    parser.add_argument("--gigabytes", type=float, default=1)
    parser.add_argument("--rounds", type=int, default=8)
    options = parser.parse_args()
    if options.scratch.exists():
        raise SystemExit(f"{options.scratch}: exists; name a folder to be made")
    source, checkpoint, made, tiny = (options.scratch / name for name in ("model", "checkpoint", "made", "tiny"))
    launch = [str(ROOT / "tools/launch/mpirun.sh"), "-n", str(options.ranks)] if options.ranks > 1 else []
    convert = [*launch, options.plait, "convert"]
    try:
        total = write_model(source, *model_of(SIZES[options.model], options.gigabytes), options.files)
        write_model(tiny, *model_of(TINY, 0), 1)
        wanted = digests(source)
        timed([*convert, str(source), str(checkpoint)], source)
        ways = {
            "there": [*convert, str(source), str(made)],
            "cp": ["cp", "-r", str(source), str(made)],
            "back": [*convert, str(checkpoint), str(made)],
            "cp of the checkpoint": ["cp", "-r", str(checkpoint), str(made)],
            "a small model": [*convert, str(tiny), str(made)],
        }
        read = {"back": checkpoint, "cp of the checkpoint": checkpoint, "a small model": tiny}
        runs = {name: [] for name in ways}
        for number in range(options.rounds):
            there, copy, back, copy_back, small = ways
            for name in ((there, copy, back, copy_back, small) if number % 2 == 0 else
                         (copy, there, copy_back, back, small)):
                runs[name].append(timed(ways[name], read.get(name, source)))
                if name == "back" and digests(made) != wanted:
                    raise SystemExit("the tensors that came back are not those that went")
                shutil.rmtree(made)
        print(f"{options.model}, {total / 1e9:.2f} GB in {options.files} file(s), {options.ranks} rank(s), "
              f"median of {options.rounds} (fastest, slowest):")
        start = statistics.median(run[1] for run in runs.pop("a small model"))
        print(f"  a small model: {start:.2f} s")
        for name, results in runs.items():
            alone, synced = (sorted(run[i] for run in results) for i in (0, 1))
            print(f"  {name}: {total / statistics.median(synced) / 1e6:.0f} MB/s to the device "
                  f"({total / synced[0] / 1e6:.0f}, {total / synced[-1] / 1e6:.0f}); until it ended "
                  f"{total / statistics.median(alone) / 1e6:.0f} MB/s; largest process {max(r[2] for r in results) >> 10} MiB")
        for name, other in (("there", "cp"), ("back", "cp of the checkpoint")):
            seconds, of_cp = (statistics.median(run[1] for run in runs[way]) for way in (name, other))
            ended = statistics.median(run[0] for run in runs[other])
            print(f"  {name}: {of_cp / seconds:.0%} of what cp reaches to the device; {of_cp / (seconds - start):.0%} without "
                  f"what a small model takes; {ended / seconds:.0%} where cp need not sync")
    finally:
        shutil.rmtree(options.scratch, ignore_errors=True)


if __name__ == "__main__":
    main()
