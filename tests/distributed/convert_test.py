#!/usr/bin/env python3
"""plait convert on several ranks gives the tensors that one rank gives, and fails as one.

usage: convert_test.py PLAIT [unittest arguments]
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/support"))
import model_folder as mf  # noqa: E402  (found by the line above)

LAUNCH = str(ROOT / "tools/launch/mpirun.sh")
PLAIT = None
BAD_CHECKPOINT = 3


class RanksTest(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.path = pathlib.Path(self.folder.name)
        self.addCleanup(self.folder.cleanup)
        self.tensors = mf.random_tensors(mf.JAMBA, "BF16")
        mf.write_folder(self.path / "in", mf.JAMBA, self.tensors, shards=3)

    def run_convert(self, ranks, source, target, *options):
        launch = [LAUNCH, "-n", str(ranks)] if ranks > 1 else []
        command = [*launch, PLAIT, "convert", str(self.path / source), str(self.path / target), *options]
        return subprocess.run(command, text=True, capture_output=True, timeout=120, check=False)

    def convert(self, ranks, source, target, *options):
        report = self.path / f"{target}.json"
        done = self.run_convert(ranks, source, target, "--report", str(report), *options)
        self.assertEqual(done.returncode, 0, done.stderr)
        return json.loads(report.read_text())

    def test_three_ranks_give_the_tensors_of_one(self):
        one = self.convert(1, "in", "one")
        three = self.convert(3, "in", "three")
        for side in ("sources", "targets"):
            self.assertEqual([(t["name"], t["dtype"], t["shape"], t["xxh3_128"]) for t in one[side]],
                             [(t["name"], t["dtype"], t["shape"], t["xxh3_128"]) for t in three[side]])
        files = {t["file"] for t in three["targets"]}
        self.assertEqual(files, {f"rank-{rank:05}.h5" for rank in range(3)})
        # A checkpoint of three ranks is read by one, and one of one rank by two.
        self.convert(1, "three", "from_three")
        self.convert(2, "one", "from_one", "--max-shard-bytes", "10KB")
        self.convert(3, "three", "from_three_by_three")
        for name in ("from_three", "from_one", "from_three_by_three"):
            self.assertEqual(mf.read_folder(self.path / name), self.tensors, name)
        self.assertEqual((self.path / "from_three/model.safetensors").read_bytes(),
                         (self.path / "from_three_by_three/model.safetensors").read_bytes())

    def test_paths_need_not_be_utf8(self):
        os.rename(self.path / "in", os.fsencode(self.path / "in") + b"\xff")
        self.convert(2, "in\udcff", "out")
        self.assertEqual(json.loads((self.path / "out.json").read_text())["source"][-1], "\ufffd")

    def test_a_failure_of_one_rank_is_the_failure_of_all(self):
        self.tensors["lm_head.weight"] = ("BF16", [40, 16], b"\x7f\x7f" * 640)  # too large for f16
        mf.write_folder(self.path / "large", mf.JAMBA, self.tensors)
        there = sorted(os.listdir(self.path))
        done = self.run_convert(3, "large", "out", "--dtype", "F16")
        self.assertEqual(done.returncode, 2, done.stderr)
        self.assertEqual(done.stderr.count("outside the range of f16"), 1, done.stderr)
        del self.tensors["lm_head.weight"]
        mf.write_folder(self.path / "less", mf.JAMBA, self.tensors)
        done = self.run_convert(3, "less", "out")
        self.assertEqual(done.returncode, BAD_CHECKPOINT, done.stderr)
        self.assertEqual(done.stderr.count("lm_head.weight: missing"), 1, done.stderr)
        self.assertEqual(sorted(os.listdir(self.path)), sorted([*there, "less"]))


RECIPE = """schema_version: 1
name: "tiny"
seed: 7
model {
  family: JAMBA
  vocabulary: 300 model_dim: 16 hidden_dim: 24 layers: 4
  schedule { attention_layer_period: 4 attention_layer_offset: 2
             expert_layer_period: 2 expert_layer_offset: 1 }
  attention { heads: 2 kv_heads: 1 }
  mamba { state_dim: 4 dt_rank: 2 }
  experts { experts: 3 experts_per_token: 2 }
}
data { path: "DATA" }
optim { adamw {} }
stages { steps: 2 row_tokens: 16 rows_per_microbatch: 2 tokens_per_step: 128
         schedule { learning_rate_peak: 1e-3 } }
parallel { reduction: CANONICAL }
trainer { precision: F32 threads_per_rank: 1 checkpoint_every_steps: 2 }
"""


class TrainedTest(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.path = pathlib.Path(self.folder.name)
        self.addCleanup(self.folder.cleanup)

    def plait(self, ranks, *arguments):
        launch = [LAUNCH, "-n", str(ranks)] if ranks > 1 else []
        done = subprocess.run([*launch, PLAIT, *arguments], text=True, capture_output=True, timeout=120,
                              check=False)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout

    def test_weights_that_ranks_share_become_one_folder(self):
        (self.path / "text").mkdir()
        for document in range(20):
            lines = [f"the cat {document} sat on mat {line} and ran\n" for line in range(30)]
            (self.path / "text" / f"{document}.txt").write_text("".join(lines))
        self.plait(1, "prepare", "--input", str(self.path / "text"), "--output", str(self.path / "data"),
                   "--vocabulary", "300")
        recipe = self.path / "recipe.textproto"
        recipe.write_text(RECIPE.replace("DATA", str(self.path / "data")))
        folders = []
        for ranks in (1, 2):
            run = self.path / f"run{ranks}"
            self.plait(ranks, "train", str(recipe), "--output", str(run))
            folders.append(self.path / f"out{ranks}")
            self.plait(3 - ranks, "convert", str(run), str(folders[-1]), "--dtype", "F32")
        # The same bits on one rank and on two; of one, each tensor is whole in the checkpoint.
        tensors = mf.read_folder(folders[0])
        self.assertEqual(tensors, mf.read_folder(folders[1]))
        config = json.loads((folders[0] / "config.json").read_text())
        expected = mf.shapes_of(dict(mf.JAMBA, **config))
        self.assertEqual({name: shape for name, (_, shape, _) in tensors.items()}, expected)
        self.plait(1, "convert", str(self.path / "run2"), str(self.path / "narrow"))
        self.assertEqual({t[0] for t in mf.read_folder(self.path / "narrow").values()}, {"BF16"})
        # And into a checkpoint again.
        self.plait(1, "convert", str(folders[0]), str(self.path / "back"), "--report", str(self.path / "r"))
        shown = json.loads(self.plait(1, "checkpoint", "show", str(self.path / "run1"), "--json"))
        digests = {t["name"]: t["shards"][0]["digest"] for t in shown["tensors"]}
        for target in json.loads((self.path / "r").read_text())["targets"]:
            self.assertEqual(target["xxh3_128"], digests["parameters/" + target["name"]], target["name"])


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    PLAIT = os.path.abspath(sys.argv.pop(1))
    unittest.main(verbosity=2)
