#!/usr/bin/env python3
"""The examples in the help of commands that need nothing but the checkout work as they are written, and
every command has one.

usage: help_examples_test.py   (PLAIT: the executable)
"""

import os
import re
import shlex
import subprocess
import unittest

PLAIT = os.path.abspath(os.environ.get("PLAIT", "build/release/tools/plait"))
COMMANDS = ["prepare", "train", "generate", "checkpoint list", "checkpoint verify", "checkpoint show", "convert", "parity",
            "recipe show", "recipe validate", "tokenize", "bench kernels", "bench gemm", "bench step", "bench ranks",
            "bench devices", "bench tokenizer", "doctor", "selftest", "plan"]
RUN_HERE = ("plait plan ", "plait recipe ")


def run(*arguments):
    return subprocess.run([PLAIT, *arguments], text=True, capture_output=True, timeout=60, check=False)


def examples(command):
    text = run(*command.split(), "--help").stdout
    after = text[text.index("Example"):] if "Example" in text else ""
    return re.findall(r"plait [a-z][^;&\n]*", after)


class HelpExamplesTest(unittest.TestCase):
    def test_every_command_has_one(self):
        for command in COMMANDS:
            self.assertTrue(any(e.startswith("plait " + command) for e in examples(command)), command)

    def test_those_that_need_nothing_else_work(self):
        tried = 0
        for command in COMMANDS + ["recipe"]:
            for example in examples(command):
                if not example.startswith(RUN_HERE):
                    continue
                done = run(*shlex.split(example)[1:])
                self.assertEqual(done.returncode, 0, example + "\n" + done.stderr)
                tried += 1
        self.assertGreaterEqual(tried, 4)

    def test_commands_of_one_rank_are_refused_on_several(self):
        done = subprocess.run(["tools/launch/mpirun.sh", "-n", "2", PLAIT, "recipe", "show",
                               "recipes/library/llama_2_7b.textproto"], text=True, capture_output=True, timeout=60, check=False)
        self.assertEqual(done.returncode, 2, done.stderr)
        self.assertEqual(done.stdout, "")
        self.assertEqual(done.stderr.count("plait: recipe show: works on one rank, was started on 2"), 1, done.stderr)

    def test_output_that_cannot_be_written_is_an_error(self):
        with open("/dev/full", "w", encoding="utf-8") as full:
            done = subprocess.run([PLAIT, "recipe", "show", "recipes/library/llama_2_7b.textproto"], stdout=full,
                                  stderr=subprocess.PIPE, text=True, timeout=60, check=False)
        self.assertEqual(done.returncode, 75)
        self.assertIn("plait: standard output cannot be written: No space left on device", done.stderr)


if __name__ == "__main__":
    unittest.main(verbosity=1)
