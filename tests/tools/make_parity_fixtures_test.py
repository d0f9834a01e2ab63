"""tools/make_parity_fixtures.py where its libraries are not: the help is there, and the error is one line."""

import pathlib
import subprocess
import sys
import tempfile
import unittest

SCRIPT = pathlib.Path(__file__).resolve().parents[2] / "tools" / "make_parity_fixtures.py"


def run(*arguments):
    # -I -S: no installed packages.
    return subprocess.run(
        [sys.executable, "-I", "-S", SCRIPT, *arguments], capture_output=True, text=True
    )


class MakeParityFixturesTest(unittest.TestCase):
    def test_help_documents_the_layout(self):
        result = run("--help")
        self.assertEqual(result.returncode, 0, result.stderr)
        for name in ("input_ids", "logits", "auxiliary_loss", "gradients/NAME", "greedy"):
            self.assertIn(name, result.stdout)

    def test_names_the_library_that_is_missing(self):
        with tempfile.TemporaryDirectory() as folder:
            result = run("--preset", "tiny_llama", "--output", folder)
        self.assertEqual(result.returncode, 1)
        self.assertIn("this needs torch, transformers", result.stderr)
        self.assertEqual(result.stderr.count("\n"), 1)


if __name__ == "__main__":
    unittest.main()
