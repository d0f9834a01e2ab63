#!/usr/bin/env python3
"""Runs plait under tools/launch/mpirun.sh: the doctor, what the launcher sets, and signals to a training run.

usage: launch_test.py PLAIT [unittest arguments]
"""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
LAUNCH = str(ROOT / "tools/launch/mpirun.sh")
PLAIT = None
TRY_AGAIN = 75

RECIPE = """schema_version: 1
name: "signals"
seed: 7
model { family: LLAMA vocabulary: 300 model_dim: 16 hidden_dim: 24 layers: 2
        attention { heads: 4 kv_heads: 2 rotary_embedding { theta: 100 } } }
data { path: "DATA" }
optim { adamw {} }
stages { steps: 1000000 row_tokens: 16 rows_per_microbatch: 2 tokens_per_step: 64
         schedule { learning_rate_peak: 1e-3 } }
trainer { precision: F32 log_every_steps: 1 threads_per_rank: 1 collective_timeout_seconds: 2 }
"""


class DoctorTest(unittest.TestCase):
    def test_tells_about_both_ranks(self):
        done = subprocess.run([LAUNCH, "-n", "2", PLAIT, "doctor", "--json"], text=True,
                              capture_output=True, timeout=120, check=False)
        self.assertEqual(done.returncode, 0, done.stderr)
        answer = json.loads(done.stdout)
        self.assertTrue(answer["launched_by_mpi"])
        self.assertEqual(len(answer["ranks"]), 2)
        self.assertEqual(answer["hosts"], 1)
        figures = answer["communication"]
        self.assertTrue(figures["shared_window"])
        for name, value in figures.items():
            self.assertGreater(value, 0, name)


class NetworkTest(unittest.TestCase):
    """Only on this host alone does the launcher say how messages go."""

    def layer(self, *options, **variables):
        batch_system = ("OMPI_MCA_", "SLURM_", "PBS_", "LSB_", "OAR_", "COBALT_", "PE_")
        environment = {name: value for name, value in os.environ.items() if not name.startswith(batch_system)}
        done = subprocess.run([LAUNCH, "-n", "1", *options, "sh", "-c", "echo ${OMPI_MCA_pml-any}"], text=True,
                              capture_output=True, timeout=60, check=False, env={**environment, **variables})
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout.strip()

    def test_on_this_host_no_network_is_looked_for(self):
        self.assertEqual(self.layer(), "ob1")
        self.assertEqual(self.layer("--bind-to", "none"), "ob1")

    def test_what_the_user_sets_stays(self):
        self.assertEqual(self.layer(OMPI_MCA_pml="^ucx"), "^ucx")

    def test_hosts_may_have_any_network(self):
        self.assertEqual(self.layer("--host", "localhost"), "any")
        self.assertEqual(self.layer("-H", "localhost"), "any")
        with tempfile.NamedTemporaryFile("w") as hosts:
            hosts.write("localhost slots=1\n")
            hosts.flush()
            self.assertEqual(self.layer("--hostfile", hosts.name), "any")
            self.assertEqual(self.layer("-machinefile", hosts.name), "any")
            self.assertEqual(self.layer(OMPI_MCA_orte_default_hostfile=hosts.name), "any")
            self.assertEqual(self.layer("--mca", "orte_default_hostfile", hosts.name), "any")
            hosts.seek(0)
            hosts.write("rank 0=localhost slot=0\n")
            hosts.truncate()
            hosts.flush()
            self.assertEqual(self.layer("--rankfile", hosts.name, "--host", "localhost"), "any")
        self.assertEqual(self.layer(OAR_NODEFILE="/dev/null"), "any")


class SignalsTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.path = pathlib.Path(cls.folder.name)
        (cls.path / "text").mkdir()
        for document in range(20):
            lines = [f"the cat {document} sat on mat {line} and ran\n" for line in range(30)]
            (cls.path / "text" / f"{document}.txt").write_text("".join(lines))
        subprocess.run([PLAIT, "prepare", "--input", str(cls.path / "text"), "--output",
                        str(cls.path / "data"), "--vocabulary", "300"],
                       check=True, capture_output=True)
        (cls.path / "r.textproto").write_text(RECIPE.replace("DATA", str(cls.path / "data")))

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    def train(self, name, act):
        """Trains on two ranks until some steps are made, calls act(launcher, ranks); the job's
        exit code and stderr."""
        output, errors = self.path / name, self.path / (name + ".log")
        with open(errors, "w", encoding="utf-8") as log:
            job = subprocess.Popen([LAUNCH, "-n", "2", PLAIT, "train",
                                    str(self.path / "r.textproto"), "--output", str(output)],
                                   stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            try:
                metrics = output / "metrics.jsonl"
                give_up = time.monotonic() + 60
                while not metrics.exists() or metrics.read_text().count("\n") < 3:
                    self.assertIsNone(job.poll(), errors.read_text())
                    self.assertLess(time.monotonic(), give_up, errors.read_text())
                    time.sleep(0.05)
                act(job.pid, self.ranks(str(output)))
                code = job.wait(timeout=60)
            finally:
                job.kill()
                job.wait()
        return code, errors.read_text()

    @staticmethod
    def ranks(output):
        """Processes that train into `output`, by their rank."""
        found = {}
        for process in pathlib.Path("/proc").glob("[0-9]*"):
            try:
                command = (process / "cmdline").read_bytes().split(b"\0")
                if b"train" not in command[:2] or output.encode() not in command:
                    continue
                for variable in (process / "environ").read_bytes().split(b"\0"):
                    if variable.startswith(b"OMPI_COMM_WORLD_RANK="):
                        found[int(variable.split(b"=")[1])] = int(process.name)
            except OSError:
                continue
        return found

    def expect_a_checkpoint(self, name, code, log):
        self.assertEqual(code, TRY_AGAIN, log)
        self.assertRegex(log, r"stopped on request at step \d+")
        self.assertTrue(list((self.path / name / "checkpoints").glob("step-*")), log)

    def test_another_layout_goes_on_and_is_named_once(self):
        """Eight steps: two on one rank, the others on four, whose checkpoint tells the parts."""
        def train(ranks, *settings):
            arguments = ["--set", "stages.0.steps=8", "--resume"]
            for setting in settings:
                arguments += ["--set", setting]
            return subprocess.run([LAUNCH, "-n", str(ranks), PLAIT, "train",
                                   str(self.path / "r.textproto"), "--output",
                                   str(self.path / "elsewhere"), *arguments], text=True,
                                  stdin=subprocess.DEVNULL, capture_output=True, timeout=120,
                                  check=False)
        one = train(1, "debug.stop_after_steps=2")
        self.assertEqual(one.returncode, 0, one.stderr)
        four = train(4, "parallel.tensor=2", "parallel.context=2")
        self.assertEqual(four.returncode, 0, four.stderr)
        self.assertEqual(four.stderr.count("the recipe is not the one that"), 1, four.stderr)
        self.assertIn(": parallel.context: 1 -> 2; parallel.tensor: 1 -> 2\n", four.stderr)
        self.assertFalse((self.path / "elsewhere" / "logs").exists(), "a rank was in trouble")
        shown = subprocess.run([PLAIT, "checkpoint", "show", str(self.path / "elsewhere")],
                               text=True, capture_output=True, timeout=60, check=True).stdout
        self.assertTrue(re.search(r"rank 1: elements 0 to \d+ of \[150 to 300, 0 to 16\]$", shown,
                                  re.MULTILINE), "the lower half of the vocabulary on tensor rank 1")

    def test_sigusr1_to_the_launcher_leaves_a_checkpoint(self):
        code, log = self.train("usr1", lambda launcher, _: os.kill(launcher, signal.SIGUSR1))
        self.expect_a_checkpoint("usr1", code, log)

    def test_sigterm_to_the_launcher_leaves_a_checkpoint(self):
        code, log = self.train("term", lambda launcher, _: os.kill(launcher, signal.SIGTERM))
        self.expect_a_checkpoint("term", code, log)

    def test_sigterm_to_one_rank_stops_all(self):
        code, log = self.train("one", lambda _, ranks: os.kill(ranks[1], signal.SIGTERM))
        self.expect_a_checkpoint("one", code, log)

    def test_a_stopped_rank_is_named_and_ends_the_run(self):
        code, log = self.train("stop", lambda _, ranks: os.kill(ranks[1], signal.SIGSTOP))
        self.assertEqual(code, TRY_AGAIN, log)
        self.assertIn("missing: rank 1 (its process is stopped)", log)

    def test_a_killed_rank_ends_the_run(self):
        code, log = self.train("kill", lambda _, ranks: os.kill(ranks[0], signal.SIGKILL))
        self.assertNotIn(code, (0, None), log)


if __name__ == "__main__":
    PLAIT = str(pathlib.Path(sys.argv.pop(1)).resolve())
    unittest.main()
