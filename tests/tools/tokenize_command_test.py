"""plait tokenize on a small tokenizer.json: ids out, texts back, refusals; plait bench tokenizer.

usage: tokenize_command_test.py   (PLAIT: the executable)
"""

import json
import os
import pathlib
import subprocess
import tempfile
import unittest

PLAIT = os.path.abspath(os.environ.get("PLAIT", "build/release/tools/plait"))
TOKENIZER = "tests/data/tokenizers/llama2.json"
TEXTS = ["the rain", "", "雨 <s>\n", "a\u0000b"]


def run(*arguments, lines=""):
    return subprocess.run([PLAIT, *arguments], input=lines, text=True, capture_output=True, timeout=60, check=False)


class TokenizeTest(unittest.TestCase):
    def answers(self, values, *options):
        done = run("tokenize", "--tokenizer", TOKENIZER, *options, lines="".join(json.dumps(v) + "\n" for v in values))
        self.assertEqual(done.returncode, 0, done.stderr)
        return [json.loads(line) for line in done.stdout.splitlines()]

    def test_ids_decode_to_the_texts(self):
        ids = self.answers(TEXTS)
        self.assertEqual(ids[1], [])
        self.assertNotIn(1, ids[2])
        self.assertEqual(self.answers(ids, "--decode"), TEXTS)

    def test_a_prompt_begins_with_bos_and_has_special_tokens(self):
        ids = self.answers(["a<s>"], "--prompt")[0]
        self.assertEqual((ids[0], ids[-1]), (1, 1))

    def prompt_of(self, config):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder, "tokenizer.json")
            path.write_bytes(pathlib.Path("tests/data/tokenizers/gpt2.json").read_bytes())
            pathlib.Path(folder, "tokenizer_config.json").write_text(config)
            done = run("tokenize", "--tokenizer", str(path), "--prompt", lines='"a"\n')
            self.assertEqual(done.returncode, 0, done.stderr)
            return json.loads(done.stdout)

    def test_a_prompt_begins_without_bos_where_the_configuration_says_so(self):
        with_bos = self.prompt_of('{"bos_token": "<|endoftext|>"}')
        self.assertEqual(len(with_bos), 2)
        self.assertEqual(self.prompt_of("{}"), with_bos)
        for config in ('{"bos_token": null}', '{"bos_token": "<|endoftext|>", "add_bos_token": false}'):
            self.assertEqual(self.prompt_of(config), with_bos[1:], config)

    def test_numbers_as_python_writes_them_are_read(self):
        for number in (int(1e30), float("inf"), float("nan")):
            self.assertEqual(len(self.prompt_of(json.dumps({"model_max_length": number}))), 2)

    def test_ids_beyond_32_bits_are_not_others(self):
        for number in (2**32 + 5, -(2**32) + 5, 2**63, 2**64 - 1, -(2**63), 2**31):
            done = run("tokenize", "--tokenizer", TOKENIZER, "--decode", lines=f"[{number}]\n")
            self.assertEqual(done.returncode, 2, number)
            self.assertIn(f"line 1: id {number} is outside the vocabulary", done.stderr)

    def test_a_bad_line_is_named(self):
        done = run("tokenize", "--tokenizer", TOKENIZER, lines='"a"\n{}\n')
        self.assertEqual(done.returncode, 2)
        self.assertEqual(done.stderr, "plait: line 2: expected a JSON string\n")
        done = run("tokenize", "--tokenizer", TOKENIZER, "--decode", lines="[99999]\n")
        self.assertEqual(done.returncode, 2)
        self.assertIn("line 1: tests/data/tokenizers/llama2.json: id 99999 is outside", done.stderr)

    def test_what_is_not_supported_is_refused_by_name(self):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder, "tokenizer.json")
            path.write_text('{"model":{"type":"Unigram"}}')
            done = run("tokenize", "--tokenizer", str(path))
        self.assertEqual(done.returncode, 2)
        self.assertEqual(
            done.stderr, f"plait: {path}: model.type: Unigram is not supported; supported: BPE\n")

    def test_bench_counts_the_tokens(self):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder, "text.txt")
            path.write_text("the rain\nstopped\n")
            done = run("bench", "tokenizer", TOKENIZER, str(path), "--json")
        self.assertEqual(done.returncode, 0, done.stderr)
        answer = json.loads(done.stdout)
        self.assertEqual((answer["bytes"], answer["texts"]), (17, 2))
        self.assertEqual(answer["tokens"], sum(map(len, self.answers(["the rain", "stopped"]))))


if __name__ == "__main__":
    unittest.main()
