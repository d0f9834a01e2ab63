"""plait convert on small model folders: there and back, in every layout and dtype, and refusals.

usage: convert_command_test.py   (PLAIT: the executable)
"""

import json
import os
import pathlib
import random
import signal
import struct
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
import model_folder as mf  # noqa: E402  (found by the line above)

PLAIT = os.path.abspath(os.environ.get("PLAIT", "build/release/tools/plait"))
BAD_INPUT, BAD_CHECKPOINT, TRY_AGAIN = 2, 3, 75
ODD_JAMBA = dict(mf.JAMBA, tie_word_embeddings=True, mamba_conv_bias=False, mamba_proj_bias=True,
                 mamba_d_conv=3, num_experts=6, num_experts_per_tok=3)


class ConvertTest(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.path = pathlib.Path(self.folder.name)
        self.addCleanup(self.folder.cleanup)

    def run_convert(self, source, target, *options):
        command = [PLAIT, "convert", str(self.path / source), str(self.path / target), *options]
        return subprocess.run(command, text=True, capture_output=True, timeout=60, check=False)

    def convert(self, source, target, *options):
        done = self.run_convert(source, target, "--json", *options)
        self.assertEqual(done.returncode, 0, done.stderr)
        return json.loads(done.stdout)

    def refuse(self, message, code=BAD_CHECKPOINT, source="in", target="out", options=()):
        """The conversion fails with this in its one line, and nothing is left of it."""
        there = sorted(p.name for p in self.path.iterdir())
        done = self.run_convert(source, target, *options)
        self.assertEqual(done.returncode, code, done.stderr)
        lines = [line for line in done.stderr.split("\n") if line.startswith("plait: ")]
        self.assertEqual(len(lines), 1, done.stderr)
        self.assertIn(message, lines[0])
        self.assertEqual(sorted(p.name for p in self.path.iterdir()), there)

    def report(self, name):
        return json.loads((self.path / name).read_text())


class ThereAndBackTest(ConvertTest):
    def check(self, config, tensors, shards=1, options=()):
        mf.write_folder(self.path / "in", config, tensors, shards)
        self.convert("in", "checkpoint", "--report", str(self.path / "in.json"))
        self.convert("checkpoint", "out", "--report", str(self.path / "out.json"), *options)
        self.assertEqual(mf.read_folder(self.path / "out"), tensors)
        for name in ("generation_config.json", "tokenizer_config.json"):
            self.assertEqual((self.path / "in" / name).read_bytes(), (self.path / "out" / name).read_bytes())

    def test_jamba_f32(self):
        self.check(mf.JAMBA, mf.random_tensors(mf.JAMBA, "F32"))

    def test_tied_jamba_of_odd_shape_bf16(self):
        self.check(ODD_JAMBA, mf.random_tensors(ODD_JAMBA, "BF16"))

    def test_llama_f16(self):
        self.check(mf.LLAMA, mf.random_tensors(mf.LLAMA, "F16"))

    def test_tied_llama_f32(self):
        config = dict(mf.LLAMA, tie_word_embeddings=True)
        self.check(config, mf.random_tensors(config, "F32"))

    def test_files_in_and_files_out(self):
        self.check(mf.JAMBA, mf.random_tensors(mf.JAMBA, "BF16"), shards=5,
                   options=["--max-shard-bytes", "4KB"])
        files = sorted(p.name for p in (self.path / "out").glob("*.safetensors"))
        self.assertGreater(len(files), 3)
        self.assertEqual(files[0], f"model-00001-of-{len(files):05}.safetensors")
        index = json.loads((self.path / "out/model.safetensors.index.json").read_text())
        tensors = mf.read_folder(self.path / "out")
        self.assertEqual(index["metadata"]["total_size"], sum(len(t[2]) for t in tensors.values()))
        for file in files:
            found = mf.read_safetensors(self.path / "out" / file)
            self.assertTrue(len(found) == 1 or sum(len(t[2]) for t in found.values()) <= 4000)

    def test_tensors_of_different_dtypes_keep_theirs(self):
        tensors = mf.random_tensors(mf.JAMBA, "BF16")
        tensors.update({name: tensor for name, tensor in mf.random_tensors(mf.JAMBA, "F32").items()
                        if name.endswith(("A_log", "norm.weight", "down_proj.weight"))})
        self.check(mf.JAMBA, tensors)
        self.assertEqual(self.report("in.json")["dtype"], "mixed")

    def test_a_second_time_gives_the_same_files(self):
        self.check(mf.JAMBA, mf.random_tensors(mf.JAMBA, "BF16"))
        self.convert("out", "checkpoint2")
        self.convert("checkpoint2", "out2")
        for file in (self.path / "out").iterdir():
            self.assertEqual(file.read_bytes(), (self.path / "out2" / file.name).read_bytes(), file.name)


class LayoutTest(ConvertTest):
    def test_fused_experts_are_the_same_as_single_ones(self):
        tensors = mf.random_tensors(mf.JAMBA, "F32")
        mf.write_folder(self.path / "in", mf.JAMBA, tensors)
        mf.write_folder(self.path / "fused", mf.JAMBA, mf.fused(tensors))
        self.convert("in", "checkpoint", "--report", str(self.path / "in.json"))
        self.convert("fused", "checkpoint_fused", "--report", str(self.path / "fused.json"))
        digests = [{t["name"]: t["xxh3_128"] for t in self.report(name)["targets"]}
                   for name in ("in.json", "fused.json")]
        self.assertEqual(*digests)
        self.convert("checkpoint_fused", "out")
        self.assertEqual(mf.read_folder(self.path / "out"), tensors)

    def test_a_head_beside_its_tied_embedding_must_be_the_same(self):
        config = dict(mf.LLAMA, tie_word_embeddings=True)
        tensors = mf.random_tensors(config, "BF16")
        dtype, shape, values = tensors["model.embed_tokens.weight"]
        mf.write_folder(self.path / "same", config, dict(tensors, **{"lm_head.weight": (dtype, shape, values)}))
        self.convert("same", "checkpoint", "--report", str(self.path / "same.json"))
        uses = {t["name"]: t["use"] for t in self.report("same.json")["sources"]}
        self.assertEqual(uses["lm_head.weight"], "equal to model.embed_tokens.weight")
        self.convert("checkpoint", "out")
        self.assertEqual(mf.read_folder(self.path / "out"), tensors)
        changed = bytes([values[0] ^ 1]) + values[1:]
        mf.write_folder(self.path / "in", config, dict(tensors, **{"lm_head.weight": (dtype, shape, changed)}))
        self.refuse("lm_head.weight: differs from model.embed_tokens.weight", target="other")

    def test_rotary_buffers_are_ignored_and_told(self):
        tensors = mf.random_tensors(mf.LLAMA, "F16")
        buffer = "model.layers.0.self_attn.rotary_emb.inv_freq"
        mf.write_folder(self.path / "in", mf.LLAMA, dict(tensors, **{buffer: ("F32", [2], bytes(8))}))
        self.convert("in", "checkpoint", "--report", str(self.path / "in.json"))
        uses = {t["name"]: t["use"] for t in self.report("in.json")["sources"]}
        self.assertEqual(uses[buffer], "ignored: not a weight")
        self.convert("checkpoint", "out")
        self.assertEqual(mf.read_folder(self.path / "out"), tensors)

    def test_the_report_accounts_for_every_element(self):
        mf.write_folder(self.path / "in", mf.JAMBA, mf.random_tensors(mf.JAMBA, "F32"))
        self.convert("in", "checkpoint", "--report", str(self.path / "in.json"))
        self.convert("checkpoint", "out", "--report", str(self.path / "out.json"))
        forward, back = self.report("in.json"), self.report("out.json")
        for report in (forward, back):
            used = {t["name"]: 0 for t in report["sources"]}
            for target in report["targets"]:
                position = 0
                for part in target["comes_from"]:
                    self.assertEqual(part["target_begin"], position)
                    position += part["elements"]
                    used[part["source"]] += part["elements"]
                self.assertEqual(position, mf.elements(target["shape"]))
            for source in report["sources"]:
                self.assertEqual(used[source["name"]], mf.elements(source["shape"]))
                self.assertEqual(sum(p["elements"] for p in source["goes_to"]), used[source["name"]])
        digests = [{t["name"]: (t["dtype"], t["shape"], t["xxh3_128"]) for t in tensors}
                   for tensors in (forward["sources"], back["targets"], forward["targets"], back["sources"])]
        self.assertEqual(digests[0], digests[1])
        self.assertEqual(digests[2], digests[3])
        self.assertEqual(set(digests[0]), set(mf.shapes_of(mf.JAMBA)))


class DtypeTest(ConvertTest):
    def convert_values(self, values, dtype):
        """An f32 model of these values in another dtype: the bytes of one of its tensors."""
        tensors = {name: ("F32", shape, struct.pack("<f", 0.5) * mf.elements(shape))
                   for name, shape in mf.shapes_of(mf.LLAMA).items()}
        packed = struct.pack(f"<{len(values)}f", *values)
        tensors["model.norm.weight"] = ("F32", [16], packed + tensors["model.norm.weight"][2][len(packed):])
        mf.write_folder(self.path / "in", mf.LLAMA, tensors)
        answer = self.convert("in", "checkpoint", "--dtype", dtype)
        self.assertEqual(answer["dtype"], dtype)
        self.convert("checkpoint", "out")
        config = json.loads((self.path / "out/config.json").read_text())
        self.assertEqual(config["dtype"], mf.TORCH_NAME[dtype])
        self.assertEqual(config["torch_dtype"], mf.TORCH_NAME[dtype])
        out = mf.read_folder(self.path / "out")
        self.assertEqual({t[0] for t in out.values()}, {dtype})
        return out["model.norm.weight"][2]

    def test_f16_rounds_to_nearest_even(self):
        generator = random.Random(3)
        values = [generator.uniform(-1, 1) * 10.0 ** generator.randint(-9, 4) for _ in range(16)]
        self.assertEqual(self.convert_values(values, "F16"), struct.pack("<16e", *values))

    def test_bf16_rounds_to_nearest_even(self):
        values = [1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-20, -2.0]
        expected = struct.pack("<4H", 0x3F80, 0x3F82, 0x3F81, 0xC000)
        self.assertEqual(self.convert_values(values, "BF16")[:8], expected)

    def test_widening_back_gives_the_same_bits(self):
        generator = random.Random(5)
        tensors = {}
        for name, shape in mf.shapes_of(mf.LLAMA).items():
            # Without NaN, whose payload may change: exponents below 128.
            bits = [generator.getrandbits(16) & 0xBFFF for _ in range(mf.elements(shape))]
            tensors[name] = ("BF16", shape, struct.pack(f"<{len(bits)}H", *bits))
        mf.write_folder(self.path / "in", mf.LLAMA, tensors)
        self.convert("in", "wide", "--dtype", "F32")
        self.convert("wide", "out", "--dtype", "BF16")
        self.assertEqual(mf.read_folder(self.path / "out"), tensors)

    def test_refuses_a_value_that_f16_cannot_hold(self):
        tensors = {name: ("F32", shape, bytes(4 * mf.elements(shape)))
                   for name, shape in mf.shapes_of(mf.LLAMA).items()}
        values = [0.0] * 16
        values[7] = -65520.0
        tensors["model.norm.weight"] = ("F32", [16], struct.pack("<16f", *values))
        mf.write_folder(self.path / "in", mf.LLAMA, tensors)
        self.refuse("model.norm.weight: element 7: -65520 is outside the range of f16", BAD_INPUT,
                    options=["--dtype", "F16"])


class RefusalTest(ConvertTest):
    def refuse_tensors(self, message, change, config=mf.JAMBA):
        tensors = mf.random_tensors(config, "BF16")
        change(tensors)
        mf.write_folder(self.path / "in", config, tensors)
        self.refuse(message)

    def test_a_missing_tensor(self):
        self.refuse_tensors("model.layers.2.self_attn.k_proj.weight: missing",
                            lambda t: t.pop("model.layers.2.self_attn.k_proj.weight"))

    def test_a_missing_expert(self):
        name = "model.layers.1.feed_forward.experts.2.up_proj.weight"
        self.refuse_tensors(name + ": missing", lambda t: t.pop(name))

    def test_a_tensor_too_many(self):
        self.refuse_tensors("model.layers.2.self_attn.q_proj.bias: is no tensor of this model",
                            lambda t: t.update({"model.layers.2.self_attn.q_proj.bias": ("BF16", [2], b"1234")}))

    def test_shapes_that_are_swapped(self):
        def swap(tensors):
            a, b = "model.layers.0.mamba.x_proj.weight", "model.layers.0.mamba.dt_proj.weight"
            tensors[a], tensors[b] = tensors[b], tensors[a]
        self.refuse_tensors("model.layers.0.mamba.x_proj.weight: expected shape [11, 32], found [32, 3]", swap)

    def test_a_transposed_shape(self):
        def transpose(tensors):
            name = "model.layers.1.feed_forward.experts.0.down_proj.weight"
            dtype, shape, values = tensors[name]
            tensors[name] = (dtype, shape[::-1], values)
        self.refuse_tensors("experts.0.down_proj.weight: expected shape [16, 12], found [12, 16]", transpose)

    def test_experts_that_are_there_twice(self):
        self.refuse_tensors("model.layers.1.feed_forward.experts.gate_up_proj: is there twice, fused and per expert",
                            lambda t: t.update(mf.fused(t)))

    def test_a_dtype_that_is_no_weights(self):
        def change(tensors):
            _, shape, values = tensors["lm_head.weight"]
            tensors["lm_head.weight"] = ("F64", shape, values * 4)
        self.refuse_tensors("lm_head.weight: expected F32, BF16 or F16, found F64", change)

    def test_experts_of_different_dtypes(self):
        def change(tensors):
            name = "model.layers.1.feed_forward.experts.1.down_proj.weight"
            _, shape, values = tensors[name]
            tensors[name] = ("F16", shape, values)
        self.refuse_tensors("experts.1.down_proj.weight: is F16", change)

    def test_the_same_name_twice_in_one_file(self):
        mf.write_folder(self.path / "in", mf.LLAMA, mf.random_tensors(mf.LLAMA, "F32"))
        file = self.path / "in/model.safetensors"
        file.write_bytes(file.read_bytes().replace(b'"model.layers.1.mlp.up_proj', b'"model.layers.0.mlp.up_proj'))
        self.refuse("model.layers.0.mlp.up_proj.weight: the name occurs twice")

    def test_a_truncated_file(self):
        mf.write_folder(self.path / "in", mf.LLAMA, mf.random_tensors(mf.LLAMA, "F32"))
        file = self.path / "in/model.safetensors"
        file.write_bytes(file.read_bytes()[:-1])
        self.refuse("model.safetensors: its tensors have")

    def test_an_index_that_lacks_a_tensor(self):
        mf.write_folder(self.path / "in", mf.LLAMA, mf.random_tensors(mf.LLAMA, "F32"), shards=2)
        index = self.path / "in/model.safetensors.index.json"
        content = json.loads(index.read_text())
        del content["weight_map"]["model.norm.weight"]
        index.write_text(json.dumps(content))
        self.refuse("does not name model.norm.weight")

    def test_a_damaged_checkpoint(self):
        mf.write_folder(self.path / "in", mf.LLAMA, mf.random_tensors(mf.LLAMA, "F32"))
        self.convert("in", "checkpoint")
        file = self.path / "checkpoint/rank-00000.h5"
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
        self.refuse("rank-00000.h5: damaged", source="checkpoint")

    def test_every_change_of_a_name_or_shape(self):
        generator = random.Random(11)
        for round_number in range(20):
            tensors = mf.random_tensors(mf.JAMBA, "BF16")
            if round_number % 2:
                tensors = mf.fused(tensors)
            name = generator.choice(sorted(tensors))
            dtype, shape, values = tensors.pop(name)
            kind = round_number % 5
            if kind == 0:
                tensors[name + "x"] = (dtype, shape, values)
            elif kind == 1:
                tensors[name] = (dtype, shape + [1], values)
            elif kind == 2:
                tensors[name] = (dtype, [shape[0] + 1] + shape[1:], values + values[:len(values) // shape[0]])
            elif kind == 3:
                tensors[name.replace("model.layers.1", "model.layers.9", 1) + "_"] = (dtype, shape, values)
            with self.subTest(name=name, kind=kind):
                mf.write_folder(self.path / "in", mf.JAMBA, tensors)
                self.refuse(name)
                for file in (self.path / "in").iterdir():
                    file.unlink()
                (self.path / "in").rmdir()


class TargetTest(ConvertTest):
    def setUp(self):
        super().setUp()
        self.tensors = mf.random_tensors(mf.LLAMA, "F32")
        mf.write_folder(self.path / "in", mf.LLAMA, self.tensors)

    def test_an_existing_target_is_refused_and_replaced_by_force(self):
        self.convert("in", "out")
        self.refuse("out: exists; name another target, or replace it with --force", BAD_INPUT)
        self.convert("in", "out", "--force", "--dtype", "BF16")
        self.assertEqual(sorted(p.name for p in self.path.iterdir()), ["in", "out"])
        self.convert("out", "back")
        self.assertEqual({t[0] for t in mf.read_folder(self.path / "back").values()}, {"BF16"})

    def test_force_leaves_other_folders_alone(self):
        (self.path / "precious").mkdir()
        (self.path / "precious/file").write_text("kept")
        self.refuse("is neither a checkpoint nor a model folder", BAD_INPUT, target="precious",
                    options=["--force"])
        self.assertEqual((self.path / "precious/file").read_text(), "kept")
        # Others' programs have files of that name, too.
        (self.path / "precious/config.json").write_text('{"port": 80}')
        self.refuse("is neither a checkpoint nor a model folder", BAD_INPUT, target="precious",
                    options=["--force"])
        self.assertEqual((self.path / "precious/file").read_text(), "kept")

    def test_a_target_in_the_source_is_refused(self):
        for target in ("in", "in/out", "in/../in/out"):
            self.refuse("one of source and target lies in the other", BAD_INPUT, target=target,
                        options=["--force"])

    def test_what_a_killed_conversion_left_is_removed(self):
        (self.path / "tmp.out").mkdir()
        (self.path / "tmp.out/rank-00000.h5").write_text("half")
        self.refuse("tmp.out: is not plait's", BAD_INPUT)  # somebody else's of that name
        self.assertEqual((self.path / "tmp.out/rank-00000.h5").read_text(), "half")
        (self.path / "tmp.out/.plait-lock").touch()
        self.convert("in", "out")
        self.assertFalse((self.path / "tmp.out").exists())

    def test_a_source_that_is_none_is_refused(self):
        (self.path / "empty").mkdir()
        self.refuse("empty: neither a model folder (config.json)", source="empty")
        self.refuse("absent: neither a model folder", source="absent")
        (self.path / "in/model.safetensors").unlink()
        self.refuse("has neither model.safetensors nor model.safetensors.index.json")

    def test_a_report_that_cannot_be_written_leaves_nothing(self):
        self.refuse("cannot be created", BAD_INPUT,
                    options=["--report", str(self.path / "absent/report.json")])

    def test_a_report_in_the_source_or_the_target_is_refused(self):
        weights = (self.path / "in/model.safetensors").read_bytes()
        for report in ("in/model.safetensors", "in/new.json", "out/report.json"):
            self.refuse("; name a file elsewhere", BAD_INPUT, options=["--report", str(self.path / report)])
        self.assertEqual((self.path / "in/model.safetensors").read_bytes(), weights)
        self.refuse("is no file; name one", BAD_INPUT, options=["--report", str(self.path)])

    def test_paths_need_not_be_utf8(self):
        os.rename(self.path / "in", os.fsencode(self.path / "in") + b"\xff")
        self.convert("in\udcff", "out", "--report", str(self.path / "report.json"))
        self.assertTrue(self.report("report.json")["source"].endswith("in\ufffd"))

    def test_every_file_of_a_tokenizer_travels_and_what_stays_is_named(self):
        for name in ("vocab.json", "merges.txt", "README.md", "notes.txt"):
            (self.path / "in" / name).write_text(name)
        done = self.run_convert("in", "checkpoint")
        self.assertIn("stay there and do not travel: README.md, notes.txt\n", done.stderr)
        self.convert("checkpoint", "out")
        for name in ("vocab.json", "merges.txt"):
            self.assertEqual((self.path / "out" / name).read_text(), name)

    def test_a_generation_configuration_that_nothing_can_read_is_refused_at_once(self):
        (self.path / "in/generation_config.json").write_text('{"eos_token_id": -1}')
        self.refuse("in: generation_config.json: eos_token_id", BAD_INPUT)

    def test_weights_of_f32_are_computed_with_in_f32(self):
        self.convert("in", "f32")
        self.convert("in", "bf16", "--dtype", "BF16")
        for name, precise in (("f32", True), ("bf16", False)):
            done = subprocess.run([PLAIT, "checkpoint", "show", str(self.path / name), "--json"], text=True,
                                  capture_output=True, timeout=60, check=False)
            self.assertEqual("precision: F32" in json.loads(done.stdout)["recipe"], precise, name)

    def test_a_pointer_of_git_lfs_is_named(self):
        (self.path / "in/model.safetensors").write_text(
            "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n")
        self.refuse("model.safetensors: is a Git LFS pointer")

    def test_stopped_by_a_signal_it_leaves_nothing(self):
        config = dict(mf.LLAMA, vocab_size=1 << 18, hidden_size=1024, tie_word_embeddings=True)
        mf.write_sparse_folder(self.path / "large", config, "F32")
        command = [PLAIT, "convert", str(self.path / "large"), str(self.path / "out")]
        with subprocess.Popen(command, text=True, stderr=subprocess.PIPE) as process:
            self.assertIn("converting", process.stderr.readline())
            self.assertTrue((self.path / "tmp.out").exists())
            process.send_signal(signal.SIGINT)
            self.assertIn("plait: stopped on request", process.stderr.read())
        self.assertEqual(process.returncode, TRY_AGAIN)
        self.assertEqual(sorted(os.listdir(self.path)), ["in", "large"])

    def test_a_disk_too_small_is_refused_before_anything_is_written(self):
        config = dict(mf.LLAMA, vocab_size=1 << 24, hidden_size=1 << 16, tie_word_embeddings=True)
        mf.write_sparse_folder(self.path / "large", config, "F32")
        needed = 4 * sum(mf.elements(shape) for shape in mf.shapes_of(config).values())
        self.refuse(f"out: needs {needed // 10**6}", TRY_AGAIN, source="large")

    def test_bad_options_are_refused(self):
        self.refuse("--dtype", BAD_INPUT, options=["--dtype", "F8"])
        self.refuse("--max-shard-bytes", BAD_INPUT, options=["--max-shard-bytes", "0"])

    def test_the_checkpoint_verifies_and_says_what_it_is(self):
        self.convert("in", "out")
        done = subprocess.run([PLAIT, "checkpoint", "show", str(self.path / "out"), "--json"], text=True,
                              capture_output=True, timeout=60, check=False)
        answer = json.loads(done.stdout)
        self.assertEqual(answer["texts"], {"conversion.source_format": "hugging_face",
                                           "conversion.model_type": "llama", "conversion.dtype": "F32"})
        self.assertEqual({t["name"] for t in answer["tensors"]},
                         {"parameters/" + name for name in mf.shapes_of(mf.LLAMA)})
        self.assertEqual({f["name"] for f in answer["files"]},
                         {"rank-00000.h5", "config.json", "generation_config.json", "tokenizer_config.json"})
        done = subprocess.run([PLAIT, "checkpoint", "verify", str(self.path / "out")], timeout=60,
                              capture_output=True, check=False)
        self.assertEqual(done.returncode, 0)


if __name__ == "__main__":
    unittest.main(verbosity=1)
