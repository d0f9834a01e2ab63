"""Tests of tools/install_cuda_libraries.sh, with a python3 whose pip only makes folders."""

import os
import pathlib
import shutil
import subprocess
import tempfile
import unittest

SCRIPT = pathlib.Path(__file__).resolve().parents[2] / "tools" / "install_cuda_libraries.sh"

# pip install ... --target FOLDER NAME==VERSION: the folders that pip makes for nvidia's packages.
PYTHON = """#!/bin/sh
[ "$2" = pip ] || exit 1
[ "$3" = --version ] && exit 0
while [ "$1" != --target ]; do shift; done
name=${3%%==*}
mkdir -p "$2/nvidia/$name" "$2/$(echo "$name" | tr - _)-${3##*==}.dist-info"
echo "$3" >> "$ASKED"
"""


class InstallCudaLibrariesTest(unittest.TestCase):
    def setUp(self):
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.root = pathlib.Path(temporary.name)
        (self.root / "tools").mkdir()
        shutil.copy(SCRIPT, self.root / "tools")
        (self.root / "bin").mkdir()
        python = self.root / "bin" / "python3"
        python.write_text(PYTHON, encoding="utf-8")
        python.chmod(0o755)
        self.asked = self.root / "asked"

    def run_script(self, *arguments):
        path = f"{self.root / 'bin'}:{os.environ['PATH']}"
        return subprocess.run(
            [self.root / "tools" / SCRIPT.name, *arguments],
            env={**os.environ, "PATH": path, "ASKED": str(self.asked)},
            capture_output=True,
            text=True,
            check=False,
        )

    def test_installs_each_pinned_package_once_side_by_side(self):
        first = self.run_script()
        self.assertEqual(first.returncode, 0, first.stderr)
        self.assertEqual(len(self.asked.read_text(encoding="utf-8").split()), 4)
        again = self.run_script()
        self.assertIn("are in build/cuda-libraries", again.stdout)
        self.assertEqual(len(self.asked.read_text(encoding="utf-8").split()), 4)
        folders = {path.name for path in (self.root / "build/cuda-libraries/nvidia").iterdir()}
        self.assertLessEqual({"nvidia-cudnn-cu13", "nvidia-nccl-cu13"}, folders)

    def test_installs_what_is_named(self):
        self.assertEqual(self.run_script("cutlass").returncode, 0)
        self.assertIn("nvidia-cutlass==", self.asked.read_text(encoding="utf-8"))
        self.assertIn("missing nvidia-nccl-cu13==", self.run_script("--dry-run", "nccl").stdout)
        self.assertEqual(len(self.asked.read_text(encoding="utf-8").split()), 1)

    def test_another_version_is_missing(self):
        self.run_script("nccl")
        folder = next((self.root / "build/cuda-libraries").glob("nvidia_nccl*"))
        folder.rename(folder.with_name("nvidia_nccl_cu13-1.0.0.dist-info"))
        self.assertIn("missing", self.run_script("--dry-run", "nccl").stdout)

    def test_rejects_an_unknown_library(self):
        result = self.run_script("cublas")
        self.assertEqual(result.returncode, 2)
        self.assertIn("unknown library cublas", result.stderr)


if __name__ == "__main__":
    unittest.main()
