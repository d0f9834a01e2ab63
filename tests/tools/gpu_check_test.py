"""Tests of tools/gpu_check.sh, with programs that only behave like GPU tests and plait."""

import json
import os
import pathlib
import subprocess
import tempfile
import unittest

SCRIPT = pathlib.Path(__file__).resolve().parents[2] / "tools" / "gpu_check.sh"

PASSING = """#!/bin/sh
echo "on NVIDIA H100"
echo "libraries $LD_LIBRARY_PATH"
echo "[  PASSED  ] 5 tests."
"""
FAILING = """#!/bin/sh
echo "on NVIDIA H100"
case $1 in --gtest_list_tests) exit 0 ;; esac
echo "[  PASSED  ] 4 tests."
echo "[  FAILED  ] 1 test, listed below:"
exit 1
"""
WITHOUT_DEVICE = """#!/bin/sh
echo "skipped: no CUDA device can be used: no driver"
exit 77
"""
EMPTY = """#!/bin/sh
echo "on NVIDIA H100"
echo "[  PASSED  ] 0 tests."
"""
ENDLESS = """#!/bin/sh
case $1 in --gtest_list_tests) exit 0 ;; esac
exec sleep 60
"""
PLAIT = """#!/bin/sh
[ "$*" = "bench $2 --device CUDA --json" ] || exit 2
case $2 in
  gemm) echo '{"benchmark":"gemm","best_flops_per_second":7e14,"shapes":[{"m":1}]}' ;;
  kernels) cat <<'JSON'
{"benchmark":"kernels","device":"NVIDIA H100","limits":{"bytes_per_second":3e12},"kernels":[\
{"operation":"rms_norm_forward","shape":"8192 tokens","implementation":"cuda","refusal":"",\
"seconds":0.0002,"flops_per_second":0.0,"bytes_per_second":2.7e12,"limit":"copy",\
"share_of_limit":0.93,"goal":0.92},\
{"operation":"matmul","shape":"s","implementation":"cuda","refusal":"","seconds":0.003,\
"flops_per_second":7e14,"bytes_per_second":2e11,"limit":"GEMM","share_of_limit":0.9,"goal":0.95},\
{"operation":"odd","shape":"s","implementation":"cuda","refusal":"too odd"}]}
JSON
  ;;
esac
"""
BROKEN_PLAIT = """#!/bin/sh
echo "plait: out of memory" >&2
exit 75
"""


class GpuCheckTest(unittest.TestCase):
    def setUp(self):
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.folder = pathlib.Path(temporary.name)
        self.bundle = self.folder / "plait-0.1.0-abc"
        self.program("bin/plait", PLAIT)
        (self.bundle / "BUNDLE.txt").write_text("plait 0.1.0\ncommit abc\n")

    def program(self, path, text):
        file = self.bundle / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(0o755)

    def check(self, *arguments, **environment):
        return subprocess.run(
            [SCRIPT, *arguments],
            cwd=self.folder,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=50,
        )

    def answer(self):
        return json.loads((self.folder / "gpu_check_logs" / "gpu_check.json").read_text())

    def test_all_tests_and_benchmarks_are_in_the_table_and_the_json(self):
        self.program("gpu_tests/kernels_a_gpu_test", PASSING)
        self.program("gpu_tests/kernels_b_gpu_test", PASSING)
        result = self.check(self.bundle, "--json", self.folder / "out.json")
        self.assertEqual(result.returncode, 0, result.stderr + result.stdout)
        self.assertRegex(result.stdout, r"plait abc on NVIDIA H100")
        self.assertRegex(result.stdout, r"kernels_b_gpu_test +passed +5 tests")
        self.assertRegex(
            result.stdout, r"rms_norm_forward +cuda +200\.0 us .* 93\.0 % of copy  goal 92 %, reached"
        )
        self.assertRegex(result.stdout, r"matmul +cuda .* 700\.0 TFLOP/s   90\.0 % of GEMM  goal 95 %\n")
        self.assertRegex(result.stdout, r"odd +cuda +refused: too odd")
        answer = json.loads((self.folder / "out.json").read_text())
        self.assertEqual(answer["failed"], 0)
        self.assertEqual(answer["device"], "NVIDIA H100")
        self.assertEqual([test["passed_tests"] for test in answer["tests"]], [5, 5])
        self.assertEqual(answer["kernels"]["kernels"][1]["share_of_limit"], 0.9)
        self.assertEqual(answer["gemm"]["best_flops_per_second"], 7e14)

    def test_a_bundle_is_unpacked(self):
        self.program("gpu_tests/kernels_a_gpu_test", PASSING)
        archive = self.folder / "plait.tar.xz"
        subprocess.run(["tar", "-cJf", archive, "-C", self.folder, self.bundle.name], check=True)
        self.assertEqual(self.check(archive).returncode, 0)
        self.assertEqual(self.answer()["commit"], "abc")

    def test_a_build_folder_has_its_tests_and_plait_elsewhere(self):
        self.program("tests/kernels_a_gpu_test", PASSING)
        (self.bundle / "tools").mkdir()
        (self.bundle / "bin" / "plait").rename(self.bundle / "tools" / "plait")
        self.assertEqual(self.check(self.bundle).returncode, 0)
        self.assertIn("kernels", self.answer())

    def test_a_failing_test_fails_the_check_and_the_rest_still_runs(self):
        self.program("gpu_tests/kernels_a_gpu_test", FAILING)
        self.program("gpu_tests/kernels_b_gpu_test", PASSING)
        result = self.check(self.bundle)
        self.assertEqual(result.returncode, 1)
        self.assertRegex(result.stdout, r"kernels_a_gpu_test +FAILED")
        self.assertRegex(result.stdout, r"kernels_b_gpu_test +passed")
        self.assertIn("matmul", result.stdout)
        self.assertEqual(self.answer()["failed"], 1)

    def test_a_failing_benchmark_fails_the_check(self):
        self.program("gpu_tests/kernels_a_gpu_test", PASSING)
        self.program("bin/plait", BROKEN_PLAIT)
        result = self.check(self.bundle)
        self.assertEqual(result.returncode, 1)
        self.assertRegex(result.stdout, r"bench kernels +FAILED +plait: out of memory")
        self.assertEqual(self.answer()["failed"], 2)

    def test_a_test_without_a_single_case_fails_the_check(self):
        self.program("gpu_tests/kernels_a_gpu_test", PASSING)
        self.program("gpu_tests/kernels_b_gpu_test", EMPTY)
        result = self.check(self.bundle)
        self.assertEqual(result.returncode, 1)
        self.assertRegex(result.stdout, r"kernels_b_gpu_test +ran no test")

    def test_the_check_ends_in_time(self):
        self.program("gpu_tests/kernels_a_gpu_test", ENDLESS)
        result = self.check(self.bundle, "--seconds", "2")
        self.assertEqual(result.returncode, 1)
        self.assertRegex(result.stdout, r"kernels_a_gpu_test +out of time")

    def test_without_a_gpu_it_says_so_in_one_line(self):
        self.program("gpu_tests/kernels_a_gpu_test", WITHOUT_DEVICE)
        result = self.check(self.bundle)
        self.assertEqual(result.returncode, 2)
        self.assertEqual(result.stdout, "")
        self.assertEqual(
            result.stderr,
            "gpu_check.sh: no GPU that can be used: no CUDA device can be used: no driver\n",
        )

    def test_libraries_are_found_in_a_toolkit_and_in_python_packages(self):
        self.program("gpu_tests/kernels_a_gpu_test", PASSING)
        toolkit = self.folder / "toolkit"
        packages = self.folder / "venv/lib/python3.11/site-packages/nvidia"
        for library in (
            toolkit / "lib64/libcublasLt.so.13",
            packages / "cu13/lib/libcublasLt.so.13",
            packages / "cudnn/lib/libcudnn.so.9",
        ):
            library.parent.mkdir(parents=True, exist_ok=True)
            library.touch()
        result = self.check(
            self.bundle,
            PLAIT_CUDA_LIBRARIES=f"{toolkit}/lib64:{packages}/cudnn/lib",
            VIRTUAL_ENV=str(self.folder / "venv"),
        )
        self.assertEqual(result.returncode, 0, result.stdout)
        libraries = self.answer()["libraries"]
        self.assertEqual(libraries["libcublasLt.so.13"], f"{toolkit}/lib64")
        self.assertEqual(libraries["libcudnn.so.9"], f"{packages}/cudnn/lib")
        log = (self.folder / "gpu_check_logs" / "kernels_a_gpu_test.log").read_text()
        self.assertIn(f"libraries {toolkit}/lib64:{packages}/cudnn/lib", log)

    def test_a_python_environment_is_searched(self):
        self.program("gpu_tests/kernels_a_gpu_test", PASSING)
        packages = self.folder / "venv/lib/python3.11/site-packages/nvidia"
        (packages / "cu13/lib").mkdir(parents=True)
        listed = subprocess.run(
            ["bash", "-c", "source <(sed -n '/^candidates()/,/^}/p' \"$1\"); candidates", "-", SCRIPT],
            env={**os.environ, "VIRTUAL_ENV": str(self.folder / "venv")},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split("\n")
        self.assertIn(f"{packages}/cu13/lib", listed)
        self.assertLess(listed.index("/usr/local/cuda/lib64"), listed.index(f"{packages}/cu13/lib"))

    def test_wrong_command_lines_are_refused(self):
        for arguments, message in (
            ([], "which bundle or folder?"),
            ([self.folder / "none"], "there is no"),
            ([self.bundle], "no *_gpu_test in"),
            ([self.bundle, "--seconds", "soon"], "expected a number, got soon"),
            ([self.bundle, "--quick"], "unknown option --quick"),
        ):
            result = self.check(*arguments)
            self.assertEqual(result.returncode, 2)
            self.assertIn(message, result.stderr)
            self.assertEqual(result.stderr.count("\n"), 1)


if __name__ == "__main__":
    unittest.main()
