#!/usr/bin/env python3
"""Injects mismatches and hangs into ranks under mpirun and sees each of them named in time.

usage: fault_injection_test.py PROGRAM [unittest arguments]

PROGRAM is the built fault_program.cc. A fault counts as named where the right rank is in the report
within the watchdog's time plus 2 s of the fault, and the job ends with the right exit code.
"""

import concurrent.futures
import pathlib
import re
import subprocess
import sys
import threading
import time
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROGRAM = None
RANKS = 3
WATCHDOG_SECONDS = 2.0
LONGEST_LEAVING = 12  # tools/ranks.cc waits for 10 s
# A job must be over within this of its fault: the launcher first asks its ranks to end.
END_SECONDS = 10.0

INTERNAL, TRY_AGAIN, BAD_INPUT = 70, 75, 2

# fault, rank, whether calls are compared, exit code.
FAULTS = [
    *(("skip", rank, True, INTERNAL) for rank in range(RANKS)),
    *(("swap", rank, True, INTERNAL) for rank in range(RANKS)),
    *(("count", rank, True, INTERNAL) for rank in range(RANKS)),
    *(("type", rank, True, INTERNAL) for rank in range(RANKS)),
    ("skip", 1, False, TRY_AGAIN),
    ("swap", 2, False, TRY_AGAIN),
    ("stop", 0, False, TRY_AGAIN),
    ("stop", 1, True, TRY_AGAIN),
    ("stop", 2, False, TRY_AGAIN),
    ("dawdle", 0, True, TRY_AGAIN),
    ("dawdle", 2, False, TRY_AGAIN),
    ("dawdle-in-part", 1, False, TRY_AGAIN),
]


class Outcome:
    def __init__(self, code, lines, ended):
        self.code = code
        self.lines = lines  # (time, text) of stderr
        self.ended = ended

    def time_of(self, pattern):
        for when, text in self.lines:
            if re.search(pattern, text):
                return when
        return None

    def text(self):
        return "\n".join(text for _, text in self.lines)


def run(fault, rank, check):
    """The job's outcome; it is killed where it hangs."""
    command = [str(ROOT / "tools/launch/mpirun.sh"), "-n", str(RANKS), PROGRAM, fault, str(rank),
               "1" if check else "0", str(WATCHDOG_SECONDS)]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                          stderr=subprocess.PIPE, text=True) as process:
        hung = threading.Timer(90, process.kill)
        hung.start()
        lines = [(time.monotonic(), line.rstrip("\n")) for line in process.stderr]
        code = process.wait()
        hung.cancel()
    return Outcome(code, lines, time.monotonic())


class FaultInjectionTest(unittest.TestCase):
    def test_without_a_fault_the_program_ends_well(self):
        outcome = run("none", 0, check=True)
        self.assertEqual(outcome.code, 0, outcome.text())

    def test_every_fault_is_named_in_time(self):
        self.assertGreaterEqual(len(FAULTS), 20)
        # Jobs mostly wait: some at a time.
        with concurrent.futures.ThreadPoolExecutor(max_workers=3) as pool:
            outcomes = list(pool.map(lambda f: run(*f[:3]), FAULTS))
        slowest = 0
        for (fault, rank, check, code), outcome in zip(FAULTS, outcomes):
            with self.subTest(fault=fault, rank=rank, check=check):
                if code == INTERNAL:
                    named = rf"do not match on world: rank {rank} calls .*; the others call"
                    limit = 2.0
                else:
                    named = rf"^(missing|in another collective than the rest): rank {rank}\b(?!,)"
                    limit = WATCHDOG_SECONDS + 2.0
                began, seen = outcome.time_of("^fault: "), outcome.time_of(named)
                self.assertIsNotNone(began, outcome.text())
                self.assertIsNotNone(seen, outcome.text())
                self.assertLessEqual(seen - began, limit)
                self.assertEqual(outcome.code, code, outcome.text())
                self.assertLessEqual(outcome.ended - began, limit + END_SECONDS)
                slowest = max(slowest, seen - began)
        print(f"{len(FAULTS)} faults, the slowest named after {slowest:.2f} s")

    def test_a_stopped_rank_is_said_to_be_stopped(self):
        outcome = run("stop", 1, check=False)
        self.assertRegex(outcome.text(), r"rank 1 \(process \d+, stopped\): not waiting")
        self.assertRegex(outcome.text(), r"missing: rank 1 \(its process is stopped\)")
        self.assertEqual(outcome.text().count("missing: "), 1, "one report a host")

    def check_that_it_ends_with_its_own_reason_first(self, fault, reason, code):
        outcome = run(fault, 2, check=False)
        after = [text for _, text in outcome.lines if not text.startswith("fault: ") and text]
        self.assertIn(f"rank 2 ends the job: {reason}", after[0])
        self.assertEqual(outcome.code, code)
        self.assertLessEqual(outcome.ended - outcome.time_of("^fault: "), END_SECONDS)

    def test_a_failing_rank_ends_the_job_with_its_own_reason_first(self):
        self.check_that_it_ends_with_its_own_reason_first("fail", "data/shard-00003.h5: its digest is wrong", BAD_INPUT)

    def test_what_all_ranks_are_told_is_said_before_the_first_one_leaves(self):
        outcome = run("agree", 2, check=False)
        self.assertEqual([text for _, text in outcome.lines].count("plait: rank 2: its own reason"), 1, outcome.text())
        self.assertEqual(outcome.code, BAD_INPUT)

    def test_a_rank_that_hangs_while_it_leaves_keeps_nobody(self):
        outcome = run("agree-and-stop", 2, check=False)
        self.assertEqual([text for _, text in outcome.lines].count("plait: rank 2: its own reason"), 1, outcome.text())
        self.assertEqual(outcome.code, BAD_INPUT)
        self.assertLessEqual(outcome.ended - outcome.time_of("^fault: "), LONGEST_LEAVING + END_SECONDS)

    def test_an_exception_on_one_rank_ends_the_job(self):
        self.check_that_it_ends_with_its_own_reason_first("throw", "unexpected: no more threads", INTERNAL)

    def test_a_killed_rank_ends_the_job(self):
        outcome = run("kill", 1, check=False)
        self.assertNotEqual(outcome.code, 0)
        self.assertRegex(outcome.text(), "(?i)signal 9|killed")
        self.assertLessEqual(outcome.ended - outcome.time_of("^fault: "), END_SECONDS)


if __name__ == "__main__":
    PROGRAM = str(pathlib.Path(sys.argv.pop(1)).resolve())
    unittest.main()
