"""A run on two ranks is killed (SIGKILL of a random rank) at 20 random instants and resumed each time;
its parameters after every step, and those it resumes with, must be the ones of a run that nobody
disturbed, bit for bit.

usage: kill_ranks_slow_test.py   (PLAIT: the executable; KILLS, SEED: numbers, default 20 and 1)
"""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time

PLAIT = os.path.abspath(os.environ.get("PLAIT", "build/release/tools/plait"))
KILLS = int(os.environ.get("KILLS", "20"))
SEED = int(os.environ.get("SEED", "1"))
WORDS = ["the", "cat", "sat", "on", "a", "mat", "and", "ran"]
LONGEST_END = 10.0  # seconds from the kill of one rank to the end of the job

RECIPE = """schema_version: 1
name: "killed"
seed: 7
model {
  family: JAMBA
  vocabulary: 300 model_dim: 32 hidden_dim: 64 layers: 3 pattern: "MdMeAe"
  attention { heads: 2 kv_heads: 1 }
  mamba { state_dim: 4 conv_width: 4 expand: 2 dt_rank: 2 }
  experts { experts: 4 experts_per_token: 2 }
  tied_embeddings: true
}
data { path: "DATA" }
optim { adamw {} gradient_clip_norm: 1.0 }
stages {
  name: "only" steps: 200 row_tokens: 64 rows_per_microbatch: 2 tokens_per_step: 512
  schedule { learning_rate_peak: 3e-3 warmup_steps: 4 }
}
trainer { checkpoint_every_steps: 20 checkpoints_to_keep: 2 log_every_steps: 1000 }
debug { parameter_digest_every_steps: 1 }
"""
STEPS = 200


def start(recipe, output):
    command = ["tools/launch/mpirun.sh", "-n", "2", PLAIT, "train", recipe, "--output", output, "--resume"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def ranks_of(process):
    """Process ids of the job's ranks: descendants of `process` that run plait."""
    children = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            with open(f"/proc/{entry}/stat", encoding="utf-8") as file:
                parent = int(file.read().rsplit(")", 1)[1].split()[1])
            children.setdefault(parent, []).append(int(entry))
        except (OSError, ValueError):
            continue
    found, waiting = [], [process.pid]
    while waiting:
        for child in children.get(waiting.pop(), []):
            waiting.append(child)
            try:
                if os.path.realpath(f"/proc/{child}/exe") == os.path.realpath(PLAIT):
                    found.append(child)
            except OSError:
                continue
    return sorted(found)


def digests(output):
    """(step, event, digest of the parameters) of every line of the metrics that has one."""
    with open(os.path.join(output, "metrics.jsonl"), encoding="utf-8") as file:
        lines = [json.loads(line) for line in file]
    return [(line["step"], line["event"], line["parameter_digest"]) for line in lines if "parameter_digest" in line]


def finish(recipe, output):
    process = start(recipe, output)
    if process.wait(timeout=300) != 0:
        sys.exit(f"the run into {output} ended with {process.returncode}")
    found = digests(output)
    if not found or found[-1][0] != STEPS:
        sys.exit(f"the run into {output} tells no parameters of step {STEPS}: it ends with {found[-1:]}")
    return found


def main():
    chance = random.Random(SEED)
    with tempfile.TemporaryDirectory(prefix="plait_kill_ranks") as folder:
        text = os.path.join(folder, "text.jsonl")
        with open(text, "w", encoding="utf-8") as file:
            for _ in range(2000):
                file.write(json.dumps({"text": " ".join(chance.choice(WORDS) for _ in range(40))}) + "\n")
        data = os.path.join(folder, "data")
        subprocess.run([PLAIT, "prepare", "--input", text, "--vocabulary", "300", "--output", data],
                       check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        recipe = os.path.join(folder, "recipe.textproto")
        with open(recipe, "w", encoding="utf-8") as file:
            file.write(RECIPE.replace("DATA", data))

        begun = time.monotonic()
        expected = {step: digest for step, _, digest in finish(recipe, os.path.join(folder, "undisturbed"))}
        seconds = time.monotonic() - begun
        print(f"undisturbed: {seconds:.1f} s, parameters {expected[STEPS]}", flush=True)

        kills, runs = 0, 0
        while kills < KILLS:
            output = os.path.join(folder, f"killed{runs}")
            done = False
            while kills < KILLS and not done:
                process = start(recipe, output)
                time.sleep(chance.uniform(0.3, seconds))
                ranks = ranks_of(process)
                if process.poll() is not None or not ranks:
                    done = process.wait(timeout=300) == 0
                    continue
                os.kill(chance.choice(ranks), signal.SIGKILL)
                killed = time.monotonic()
                try:
                    code = process.wait(timeout=LONGEST_END)
                except subprocess.TimeoutExpired:
                    process.kill()
                    sys.exit(f"kill {kills + 1}: the job still ran {LONGEST_END:.0f} s after a rank was killed")
                if code == 0:
                    done = True  # the rank had done its work
                    continue
                kills += 1
                print(f"kill {kills}: ended {time.monotonic() - killed:.1f} s later, exit {code}", flush=True)
            for step, event, found in finish(recipe, output):
                if found != expected[step]:
                    sys.exit(f"after {kills} kills: {event} line of step {step}: parameters {found}, "
                             f"undisturbed {expected[step]}")
            runs += 1
        print(f"{kills} kills in {runs} runs, seed {SEED}: every step's parameters are the undisturbed ones, "
              f"at the end {expected[STEPS]}")


if __name__ == "__main__":
    main()
