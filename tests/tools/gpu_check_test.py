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
case "$*" in
  "bench gemm --device CUDA --json")
    echo '{"benchmark":"gemm","best_flops_per_second":7e14,"shapes":[{"m":1}]}' ;;
  "bench step "*"/recipes/library/hybrid_1b.textproto --set trainer.device=CUDA\
 --set stages.0.tokens_per_step=65536 --json")
    [ -f "$3" ] || exit 2
    cat <<'JSON'
{"benchmark":"step","stage":"rows","device":"NVIDIA H100 80GB HBM3","threads":16,\
"tokens_per_step":65536,"step_seconds":[0.7,0.65,0.66],"median_seconds":0.66,\
"tokens_per_second":99296.97,"model_flops_per_second":5.171e14,\
"gemm_peak_flops_per_second":7e14,"share_of_gemm_peak":0.7387,"peak_flops_per_second":9.89e14,\
"share_of_peak":0.5229,"memory_bytes":1000000,"allocated_bytes_peak":30000000000}
JSON
  ;;
  "bench devices "*"/recipes/library/demo_pretrain.textproto --steps 50 --json")
    [ -f "$3" ] || exit 2
    cat <<'JSON'
{"benchmark":"devices","device":"NVIDIA H100 80GB HBM3","threads":16,"steps":50,\
"tokens_per_step":1024,"agrees":true,"largest_difference":0.00123,"largest_at_step":41,\
"bound":0.0345,"device_step_seconds":0.012,"cpu_step_seconds":0.05,"device_losses":[8.3,8.1]}
JSON
  ;;
  "bench kernels --device CUDA --json") cat <<'JSON'
{"benchmark":"kernels","device":"NVIDIA H100","limits":{"bytes_per_second":3e12},"kernels":[\
{"operation":"rms_norm_forward","shape":"8192 tokens","implementation":"cuda","refusal":"",\
"seconds":0.0002,"flops_per_second":0.0,"bytes_per_second":2.7e12,"limit":"copy",\
"share_of_limit":0.93,"goal":0.92},\
{"operation":"matmul","shape":"s","implementation":"cuda","refusal":"","seconds":0.003,\
"flops_per_second":7e14,"bytes_per_second":2e11,"limit":"GEMM","share_of_limit":0.9,"goal":0.95},\
{"operation":"odd","shape":"s","implementation":"cuda","refusal":"too odd"}]}
JSON
  ;;
  *) echo "unexpected: $*" >&2; exit 2 ;;
esac
"""
# As plait answers where losses do not agree: the figures, and an error.
DIFFERENT_LOSSES = PLAIT.replace(
    '"agrees":true,"largest_difference":0.00123', '"agrees":false,"largest_difference":0.5'
)
DIFFERENT_LOSSES += """case $2 in devices) echo "plait: losses differ" >&2; exit 70 ;; esac
"""
ENDLESS_STEP = """#!/bin/sh
case $2 in step) exec sleep 60 ;; esac
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
        self.assertRegex(
            result.stdout, r"matmul +cuda .* 700\.0 TFLOP/s   90\.0 % of GEMM  goal 95 %  \(s\)\n"
        )
        self.assertRegex(result.stdout, r"odd +cuda +refused: too odd")
        self.assertIn(
            "\nhybrid_1b, one rank: 660 ms a step, 99297 tokens/s, 517.1 TFLOP/s of the model = 52.3 % of"
            " 989 (MFU), 73.9 % of the GEMM peak; tensors 30.0 GB at most\n",
            result.stdout,
        )
        self.assertIn(
            "\nlosses of 50 steps, GPU and CPU at bf16: 0.00123 apart at most (step 41), bound 0.0345;"
            " 12.0 and 50.0 ms a step\n",
            result.stdout,
        )
        answer = json.loads((self.folder / "out.json").read_text())
        self.assertEqual(answer["failed"], 0)
        self.assertEqual(answer["device"], "NVIDIA H100")
        self.assertEqual([test["passed_tests"] for test in answer["tests"]], [5, 5])
        self.assertEqual(answer["kernels"]["kernels"][1]["share_of_limit"], 0.9)
        self.assertEqual(answer["gemm"]["best_flops_per_second"], 7e14)
        self.assertEqual(answer["step"]["share_of_peak"], 0.5229)
        self.assertEqual(answer["devices"]["agrees"], True)

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
        self.assertRegex(result.stdout, r"bench devices +FAILED +plait: out of memory")
        self.assertEqual(self.answer()["failed"], 4)

    def test_losses_that_do_not_agree_fail_the_check_and_are_in_it(self):
        self.program("gpu_tests/kernels_a_gpu_test", PASSING)
        self.program("bin/plait", DIFFERENT_LOSSES)
        result = self.check(self.bundle)
        self.assertEqual(result.returncode, 1)
        self.assertRegex(result.stdout, r"bench devices +FAILED +plait: losses differ")
        self.assertIn("0.5 apart at most", result.stdout)
        self.assertEqual(self.answer()["failed"], 1)
        self.assertEqual(self.answer()["devices"]["agrees"], False)

    def test_a_benchmark_without_end_ends_in_time(self):
        self.program("gpu_tests/kernels_a_gpu_test", PASSING)
        self.program("bin/plait", ENDLESS_STEP)
        result = self.check(self.bundle, "--seconds", "4")
        self.assertEqual(result.returncode, 1)
        self.assertRegex(result.stdout, r"bench step +out of time")

    def test_figures_of_an_earlier_check_are_gone(self):
        self.program("gpu_tests/kernels_a_gpu_test", PASSING)
        self.check(self.bundle)
        self.program("bin/plait", BROKEN_PLAIT)
        result = self.check(self.bundle)
        self.assertNotIn("tokens/s", result.stdout)
        self.assertNotIn("step", self.answer())

    def test_a_bundles_own_recipes_are_taken(self):
        self.program("gpu_tests/kernels_a_gpu_test", PASSING)
        library = self.bundle / "recipes" / "library"
        library.mkdir(parents=True)
        self.assertEqual(self.check(self.bundle).returncode, 1)
        for name in ("hybrid_1b", "demo_pretrain"):
            (library / f"{name}.textproto").touch()
        self.assertEqual(self.check(self.bundle).returncode, 0)

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
