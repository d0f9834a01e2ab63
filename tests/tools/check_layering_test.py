"""Tests of tools/check_layering.py: the violations it plants itself are found, and nothing else."""

import contextlib
import io
import pathlib
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "tools"))
import check_layering  # noqa: E402


class CheckLayeringTest(unittest.TestCase):
    def test_planted_violations_are_found(self):
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            self.assertEqual(check_layering.self_test(), 0, output.getvalue())


if __name__ == "__main__":
    unittest.main()
