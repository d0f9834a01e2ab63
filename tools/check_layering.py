#!/usr/bin/env python3
"""Checks who includes whom, and that every Backward has a finite-difference test.

usage: tools/check_layering.py [--root FOLDER] [--self-test]

Prints one line a problem (file:line: what, and what is allowed); exit 0 without problems, 1 with some.
Three rules, each one table below:
  1. a folder includes only what ALLOWED lists for it, all from strictly lower levels;
  2. an outside library is included only by its OWNERS;
  3. a header of kernels/ or model/ that declares a Backward is included (itself or its reference) by a
     test that checks finite differences.
--self-test plants one violation of each kind in a temporary tree and sees each of them found.
"""

import argparse
import collections
import fnmatch
import pathlib
import re
import sys
import tempfile

LEVELS = (
    ("base",),
    ("kernels", "recipes"),
    ("parallel",),
    ("model", "optim", "data", "checkpoint"),
    ("trainer",),
    ("tools", "tests"),
)
LEVEL = {folder: level for level, folders in enumerate(LEVELS) for folder in folders}

ALLOWED = {
    "base": (),
    "recipes": ("base",),
    "kernels": ("base",),
    "data": ("base", "recipes", "parallel"),
    "parallel": ("base", "kernels", "recipes"),
    "model": ("base", "kernels", "parallel", "recipes"),
    "optim": ("base", "kernels", "parallel", "recipes"),
    "checkpoint": ("base", "parallel"),
    "trainer": ("base", "kernels", "recipes", "parallel", "model", "optim", "data", "checkpoint"),
    "tools": tuple(LEVEL),
}

# Outside library -> (pattern of the included name, files that may include it).
OWNERS = {
    "MPI": (r"mpi\.h$", ("parallel/mpi_communicator.cc", "tests/support/ranked_main.cc")),
    "NCCL": (r"nccl\w*\.h$", ("parallel/nccl_library.cc",)),
    "HDF5": (r"(hdf5|H5\w*)\.h$", ("base/hdf5_library.h",)),
    "oneDNN": (r"(oneapi/dnnl/|dnnl)", ("kernels/cpu/onednn_*.cc",)),
    "cuBLAS, cuDNN, CUTLASS, CUB": (
        r"(cublas|cudnn|cutlass/|cute/|cub/|thrust/)",
        ("kernels/cuda/*",),
    ),
    "CUDA": (r"(cuda|driver_types|cooperative_groups|nvtx)", ("base/*", "kernels/cuda/*")),
    "Boost.Context": (r"boost/context", ("kernels/cuda/emulation/fiber.*",)),
    "Highway": (r"hwy/", ("kernels/*", "tests/support/simd_targets.h")),
    "OpenMP": (r"omp\.h$", ("kernels/*", "base/*.cc")),
    "Random123": (r"Random123/", ("base/random.cc",)),
    "xxHash": (r"xxhash\.h$", ("base/digest.cc", "base/random.cc")),
    "Zstandard, zlib": (r"(zstd|zlib)\.h$", ("data/compressed_file.cc", "tests/support/compress.h")),
    "ICU": (r"unicode/", ("data/unicode_classes.cc", "data/unicode_form.cc")),
    "SentencePiece": (r"sentencepiece", ("data/sentencepiece_model.cc",)),
    "CLI11": (r"CLI/", ("tools/*",)),
    "simdjson": (r"simdjson", ("*.cc",)),
    "nlohmann-json": (r"nlohmann/", ("*.cc",)),
    "Protobuf library": (
        r"google/protobuf/",
        ("recipes/*", "checkpoint/*.cc", "tools/*.cc", "tests/*"),
    ),
    "Protobuf messages": (r".*\.pb\.h$", ("*.cc", "recipes/*.h", "tests/*")),
    "GoogleTest": (r"(gtest|gmock)/", ("tests/*",)),
    "Google Benchmark": (r"benchmark/", ("tests/*", "tools/*")),
}

SOURCES = (".h", ".cc", ".cu", ".cuh")
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]')
COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
# A declared function named Backward or SomethingBackward; pure virtual ones are interfaces, not formulas.
FINITE_DIFFERENCE = re.compile(r"FiniteDifference|finite_differences\.h")
BACKWARD = re.compile(r"\b\w*Backward\s*\([^;{]*[;{]")

Include = collections.namedtuple("Include", "line quoted name")


def read_sources(root):
    """Path from the root -> text, of every source under the layered folders."""
    sources = {}
    for folder in LEVEL:
        for path in sorted((root / folder).rglob("*")):
            if path.suffix in SOURCES and path.is_file():
                sources[path.relative_to(root).as_posix()] = path.read_text(encoding="utf-8")
    return sources


def includes_of(text):
    for number, line in enumerate(text.split("\n"), 1):
        match = INCLUDE.match(line)
        if match:
            yield Include(number, match[1] == '"', match[2])


def allowed_folders(path):
    """Folders that the file at `path` may include from, its own among them."""
    folder, *rest = path.split("/")
    if folder == "tests":
        tested = rest[0]
        if tested in ALLOWED:  # tests/X: what X may include, X and the test support
            return {tested, "tests", *ALLOWED[tested]}
        return set(LEVEL)  # support, end_to_end, parity, ...
    return {folder, *ALLOWED[folder]}


def check_includes(sources):
    for path, text in sources.items():
        for include in includes_of(text):
            where = f"{path}:{include.line}: includes {include.name}"
            for library, (pattern, owners) in OWNERS.items():
                if re.match(pattern, include.name) and not any(
                    fnmatch.fnmatch(path, owner) for owner in owners
                ):
                    yield f"{where}: {library} belongs to {', '.join(owners)}"
            target = include.name.split("/")[0]
            if target in LEVEL and "/" in include.name:
                allowed = allowed_folders(path)
                if target not in allowed:
                    yield f"{where}: allowed are {', '.join(sorted(allowed))}"
                elif (
                    path.startswith("tests/")
                    and target == "tests"
                    and include.name.split("/")[1] not in ("support", path.split("/")[1])
                ):
                    yield f"{where}: a test includes only its own folder's tests and tests/support"
            elif (
                include.quoted
                and "/" not in include.name
                and not any(re.match(pattern, include.name) for pattern, _ in OWNERS.values())
            ):
                yield f"{where}: write the path from the project's root"


def declares_backward(text):
    """Whether a header declares a backward pass with a body somewhere: not only an interface."""
    for match in BACKWARD.finditer(COMMENT.sub("", text)):
        if not re.search(r"=\s*0\s*;$", match[0]):
            return True
    return False


def check_finite_differences(sources):
    tested = set()  # "folder/stem" of headers that some finite-difference test includes
    for path, text in sources.items():
        if path.startswith("tests/") and FINITE_DIFFERENCE.search(text):
            for include in includes_of(text):
                parts = include.name.split("/")
                tested.add(f"{parts[0]}/{pathlib.PurePosixPath(parts[-1]).stem}")
    for path, text in sources.items():
        folder, _, name = path.partition("/")
        if (
            folder in ("kernels", "model")
            and "/" not in name
            and name.endswith(".h")
            and declares_backward(text)
            and path[: -len(".h")] not in tested
        ):
            yield (
                f"{path}: declares a Backward, but no test that includes it checks finite differences "
                f"(expected in tests/{folder}/)"
            )


def check(root):
    sources = read_sources(root)
    return [*check_includes(sources), *check_finite_differences(sources)], len(sources)


# What --self-test plants: file -> (text, part of the one expected problem or None).
PLANTED = {
    "base/tensor.h": ("#pragma once\n", None),
    "base/shape.h": ('#include "kernels/matmul.h"\n', "base/shape.h:1: includes kernels/matmul.h"),
    "kernels/matmul.h": ('#include "base/tensor.h"\n#include <span>\n', None),
    "optim/adamw.cc": (
        '\n#include "model/linear.h"\n',
        "optim/adamw.cc:2: includes model/linear.h",
    ),
    "checkpoint/reader.cc": ('#include "recipes/loader.h"\n', "checkpoint/reader.cc:1"),
    "data/source.cc": ("#include <hdf5.h>\n", "HDF5 belongs to base/hdf5_library.h"),
    "model/linear.h": ('#include "recipes/schema/model.pb.h"\n', "Protobuf messages belongs to"),
    "model/block.h": ("struct Block { virtual int Backward(int dy) = 0; };\n", None),
    "model/rms_norm.h": (
        "// Backward(x): the formula\nint Backward(int dy,\n             int saved);\n",
        "model/rms_norm.h: declares a Backward",
    ),
    "kernels/attention.h": ("int AttentionBackward(int args);\n", None),
    "tests/kernels/attention_test.cc": (
        '#include "kernels/reference/attention.h"\n#include "tests/support/x.h"\n'
        "TEST(AttentionTest, BackwardMatchesFiniteDifferences) {}\n",
        None,
    ),
    "tests/kernels/other_test.cc": ('#include "model/linear.h"\n', "tests/kernels/other_test.cc:1"),
    "tests/trainer/loop_test.cc": (
        '#include "model/linear.h"\n#include "tests/model/helper.h"\n',
        "tests/trainer/loop_test.cc:2",
    ),
    "trainer/step.cc": ('#include "local.h"\n', "write the path from the project's root"),
}


def self_test():
    for folder, allowed in ALLOWED.items():
        for other in allowed:
            assert folder == "tools" or LEVEL[other] < LEVEL[folder], (folder, other)
    with tempfile.TemporaryDirectory() as temporary:
        root = pathlib.Path(temporary)
        for path, (text, _) in PLANTED.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(text, encoding="utf-8")
        problems, _ = check(root)
    expected = [part for _, part in PLANTED.values() if part]
    unseen = [part for part in expected if sum(part in problem for problem in problems) != 1]
    extra = [problem for problem in problems if not any(part in problem for part in expected)]
    for line in unseen:
        print(f"self-test: planted, not reported exactly once: {line}")
    for line in extra:
        print(f"self-test: reported, not planted: {line}")
    print(
        f"layering self-test: {len(expected) - len(unseen)} of {len(expected)} planted problems found, "
        f"{len(extra)} false"
    )
    return 1 if unseen or extra else 0


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--root", type=pathlib.Path, default=pathlib.Path(__file__).resolve().parent.parent
    )
    parser.add_argument("--self-test", action="store_true")
    arguments = parser.parse_args()
    if arguments.self_test:
        return self_test()
    problems, num_files = check(arguments.root)
    for problem in problems:
        print(problem)
    print(f"layering: {num_files} files, {len(problems)} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
