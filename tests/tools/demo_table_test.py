"""Tests of tools/demo_table.py."""

import pathlib
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "tools"))
import demo_table  # noqa: E402

METRICS = """{"event":"start","step":0}
{"event":"evaluation","step":0,"loss":9.0,"bits_per_byte":3.5}
{"event":"step","step":1,"tokens_per_second":100.0}
{"event":"step","step":2,"tokens_per_second":999.0}
{"event":"start","step":1}
{"event":"step","step":2,"tokens_per_second":300.0}
{"event":"evaluation","step":2,"loss":3.0,"bits_per_byte":1.2}
{"event":"st"""


class DemoTableTest(unittest.TestCase):
    def summary(self, text):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "metrics.jsonl"
            path.write_text(text, encoding="utf-8")
            return demo_table.summarize(demo_table.read_events(path))

    def test_a_step_repeated_after_a_resume_counts_once(self):
        summary = self.summary(METRICS)
        self.assertEqual(summary["tokens_per_second"], 200.0)
        self.assertEqual((summary["last_step"], summary["starts"]), (2, 2))

    def test_first_and_last_evaluation_are_before_and_after(self):
        summary = self.summary(METRICS)
        self.assertEqual(summary["before"]["bits_per_byte"], 3.5)
        self.assertEqual(summary["after"]["bits_per_byte"], 1.2)

    def test_one_evaluation_says_nothing_about_after(self):
        self.assertEqual(self.summary(METRICS.split("\n")[1] + "\n")["after"], {})


if __name__ == "__main__":
    unittest.main()
