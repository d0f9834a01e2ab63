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


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    PLAIT = os.path.abspath(sys.argv.pop(1))
    unittest.main(verbosity=2)
