#!/usr/bin/env python3
"""Makes what tests/data/json_tokenizer_test.cc compares with: small tokenizers of every supported kind, 10,000
strings, and digests of the ids and texts that the `tokenizers` package gives for them.

usage: tools/make_tokenizer_fixtures.py [--output tests/data/tokenizers]
needs: the `tokenizers` package (made with 0.23.3) and libxxhash.so.0; the tests need neither

Reads OUTPUT/sentences.txt (nine languages and more, and code; one a line, \\n, \\r and \\t escaped) and writes
  OUTPUT/strings.jsonl.gz   10,000 JSON strings, one a line: sentences and parts of them, code, random bytes and
                            characters, combining marks, emoji, runs of spaces, special tokens in text
  OUTPUT/KIND.json          a tokenizer.json of about 1,500 pieces
  OUTPUT/KIND.digests       a line for every 100 strings, XXH3-128 of
                              encode(s).ids                                (special names are tokens)
                              encode(s, add_special_tokens=False).ids      (encode_special_tokens: names are text)
                              decode(ids of the first column)              (special tokens left out)
                              decode(those ids reversed, with special tokens)
                            each string's ids as a count and the ids, 32 bits little-endian; each text as its
                            length in bytes, 32 bits, and its UTF-8
The same seed gives the same files.
"""

import argparse
import collections
import ctypes
import gzip
import json
import pathlib
import random
import struct
import unicodedata

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

SEED = 20
COUNT = 10_000
BLOCK = 100
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
SPACES = [" ", "  ", "   ", "\n", "\n\n", "\t", "\r\n", "\r", "\u00a0", "\u3000", "\u2003", "\u2581", "\u2028", "\x0b", "\x85"]
MARKS = ["\u0301", "\u0308", "\u0327", "\u0323", "\u064b", "\u0651", "\u05b8", "\u093c", "\u3099", "\u0e49", "\u20e3", "\u0338"]
EMOJI = ["😀", "👍🏽", "👩\u200d💻", "🏳️\u200d🌈", "🇩🇪", "❤️", "👨\u200d👩\u200d👧\u200d👦", "1️⃣", "🫠", "🥲"]
SPECIAL = [
    "<s>", "</s>", "<unk>", "<|startoftext|>", "<|endoftext|>", "<|begin_of_text|>", "<|eot_id|>", "<|bom|>", "<|eom|>",
    "<|user|>", "<pad>", "[DAY]", "QQ", "[WIDE]", "[LEFT]", "[RIGHT]", "Ünlü", "<0x41>", "<0xE2>", "<mask>",
]
CONTRACTIONS = ["it's", "IT'S", "we'll", "WE'LL", "'\u017f", "they'Re", "I'm", "d'd", "''s", "'ve", "' s", "o'clock", "'t'T"]
NUMBERS = ["0", "42", "1234567890", "3.14159", "1,000,000", "\u0664\u0662", "\u0967\u096f", "Ⅷ", "½", "²", "①", "٣٫١٤", "1e-9"]


def read_sentences(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    return [line.replace("\\n", "\n").replace("\\r", "\r").replace("\\t", "\t") for line in lines]


def random_character(rng):
    while True:
        code = rng.choice([rng.randrange(0x80), rng.randrange(0x3000), rng.randrange(0x10000), rng.randrange(0x110000)])
        if not 0xD800 <= code < 0xE000:
            return chr(code)


def part_of(rng, text):
    begin = rng.randrange(len(text))
    return text[begin : begin + rng.randint(1, 60)]


def make_string(rng, sentences):
    kind = rng.randrange(14)
    sentence = rng.choice(sentences)
    if kind <= 2:
        return part_of(rng, sentence)
    if kind == 3:
        return sentence + rng.choice(["", " ", "\n", "\r\n"])
    if kind == 4:
        words = [rng.choice(rng.choice(sentences).split() or ["x"]) for _ in range(rng.randint(1, 8))]
        return rng.choice(SPACES).join(words)
    if kind == 5:
        return rng.randbytes(rng.randint(1, 40)).decode("utf-8", errors="replace")
    if kind == 6:
        return rng.randbytes(rng.randint(1, 30)).decode("latin-1")
    if kind == 7:
        return "".join(random_character(rng) for _ in range(rng.randint(1, 16)))
    if kind == 8:
        return "".join(c + rng.choice(MARKS) * rng.randrange(3) for c in part_of(rng, sentence)[:20])
    if kind == 9:
        return unicodedata.normalize(rng.choice(["NFD", "NFKD", "NFC"]), part_of(rng, sentence))
    pool = {10: EMOJI + SPACES, 11: SPACES + ["a", "é", "."], 12: SPECIAL + SPACES + ["x", "word", ","],
            13: CONTRACTIONS + NUMBERS + SPACES + SPECIAL}[kind]
    return "".join(rng.choice(pool) for _ in range(rng.randint(1, 9))) + (part_of(rng, sentence)[:8] if rng.random() < 0.3 else "")


def make_strings(sentences):
    rng = random.Random(SEED)
    strings = ["", " ", "▁", "\n", "a", "\u0000", "a" * 500, " " * 300, "ab" * 400, "é" * 200, "1" * 100]
    strings += [bytes([byte]).decode("latin-1") for byte in range(256)] + SPECIAL
    return strings + [make_string(rng, sentences) for _ in range(COUNT - len(strings))]


def alphabet(sentences, size, form="NFC"):
    """The most frequent characters, for the trainer: left to itself it chooses among ties by chance."""
    text = unicodedata.normalize(form, "".join(sentences)).replace(" ", "")
    counts = collections.Counter(text)
    frequent = ["▁"] + sorted(counts, key=lambda c: (-counts[c], c))[: size - 1]
    return {"initial_alphabet": frequent, "limit_alphabet": len(frequent)}


def byte_pieces():
    return [f"<0x{byte:02X}>" for byte in range(256)]


def train(tokenizer, sentences, special, vocabulary=1500, **options):
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=special, show_progress=False, min_frequency=1, **options)
    tokenizer.train_from_iterator(sentences * 2, trainer)


def with_model(tokenizer, special, legacy_merges=False, **changes):
    """The file with other `changes` of its fields, only `special` as added tokens."""
    file = json.loads(tokenizer.to_str())
    file["added_tokens"] = [token for token in file["added_tokens"] if token["content"] in special]
    if legacy_merges:
        file["model"]["merges"] = [" ".join(pair) for pair in file["model"]["merges"]]
    file["model"].update(changes.pop("model", {}))
    file.update(changes)
    return Tokenizer.from_str(json.dumps(file)), file


def sentencepiece_like(sentences, special, prepend):
    """BPE with byte fallback, trained on words that begin with U+2581."""
    tokenizer = Tokenizer(models.BPE(unk_token=special[0], byte_fallback=True, fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=prepend)
    train(tokenizer, sentences, special + byte_pieces(), **alphabet(sentences, 500))
    return tokenizer


def template(name, token_id, end=None):
    single = f"{name} $A" + (f" {end[0]}" if end else "")
    return processors.TemplateProcessing(single=single, special_tokens=[(name, token_id)] + ([end] if end else []))


def state(component):
    return json.loads(component.__getstate__())


def llama2(sentences):
    special = ["<unk>", "<s>", "</s>"]
    return with_model(
        sentencepiece_like(sentences, special, "always"), special, legacy_merges=True,
        pre_tokenizer=None,
        normalizer=state(normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])),
        post_processor=state(template("<s>", 1)),
        decoder=state(decoders.Sequence([
            decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])))


def jamba(sentences):
    special = ["<|pad|>", "<|startoftext|>", "<|endoftext|>", "<|unk|>", "<|bom|>", "<|eom|>", "<|user|>"]
    tokenizer = sentencepiece_like(sentences, special, "never")
    return with_model(
        tokenizer, special, pre_tokenizer=None, model={"unk_token": "<|unk|>"},
        normalizer=state(normalizers.Replace(" ", "▁")),
        post_processor=state(template("<|startoftext|>", 1)),
        decoder=state(decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])))


def metaspace(sentences):
    """As newer Llama files: the pre-tokenizer puts the space symbol before the first word alone."""
    special = ["<unk>", "<s>", "</s>"]
    return with_model(
        sentencepiece_like(sentences, special, "always"), special,
        pre_tokenizer=state(pre_tokenizers.Metaspace(prepend_scheme="first", split=False)),
        post_processor=state(template("<s>", 1, ("</s>", 2))),
        decoder=state(decoders.Sequence([
            decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])))


def byte_level(sentences, special, splitter, model, vocabulary=1500, **options):
    tokenizer = Tokenizer(models.BPE(**model))
    tokenizer.pre_tokenizer = splitter
    tokenizer.decoder = decoders.ByteLevel()
    train(tokenizer, sentences, special, vocabulary, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), **options)
    return tokenizer


def gpt2(sentences):
    tokenizer = byte_level(sentences, ["<|endoftext|>"], pre_tokenizers.ByteLevel(add_prefix_space=False), {})
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return tokenizer, json.loads(tokenizer.to_str())


def llama3(sentences):
    splitter = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(LLAMA3), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer = byte_level(sentences, [], splitter, {"ignore_merges": True})
    # New pieces after all others, as in the original.
    tokenizer.add_special_tokens(["<|begin_of_text|>", "<|endoftext|>", "<|eot_id|>", "<|user|>"])
    tokenizer.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=False), template("<|begin_of_text|>", tokenizer.token_to_id("<|begin_of_text|>"))])
    # Pieces that no merge gives: only ignore_merges finds them.
    file = json.loads(tokenizer.to_str())
    file["model"]["merges"] = [pair for i, pair in enumerate(file["model"]["merges"]) if i % 7]
    return Tokenizer.from_str(json.dumps(file)), file


def qwen2(sentences):
    splitter = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(QWEN2), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer = byte_level(sentences, ["<|endoftext|>"], splitter, {}, 700)
    tokenizer.normalizer = normalizers.NFC()
    return tokenizer, json.loads(tokenizer.to_str())


def digits(sentences):
    """Normalizers, digits, a space before the text, and added tokens of every kind."""
    splitter = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=True)])
    tokenizer = byte_level(sentences, ["<|endoftext|>"], splitter, {}, 1000)
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase(), normalizers.Strip()])
    tokenizer.add_tokens([
        AddedToken("[DAY]", normalized=False), AddedToken("QQ", single_word=True, normalized=False),
        AddedToken("[WIDE]", lstrip=True, rstrip=True, normalized=False), AddedToken("Ünlü", normalized=True),
        AddedToken("[LEFT]", lstrip=True, normalized=False), AddedToken("[RIGHT]", rstrip=True, normalized=True)])
    tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True), AddedToken("<pad>", normalized=False)])
    return tokenizer, json.loads(tokenizer.to_str())


def unknown(sentences):
    """No byte pieces: unknown characters are one <unk> each. Another normalizer, a split at a string."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=False))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKD(), normalizers.Strip(left=True, right=False), normalizers.Replace("``", '"'), normalizers.Replace("\n", "")])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(",", "merged_with_previous"), pre_tokenizers.Digits(individual_digits=False),
        pre_tokenizers.Metaspace(prepend_scheme="always")])
    train(tokenizer, sentences, ["<unk>", "</s>"], **alphabet(sentences, 300, "NFKD"))
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    tokenizer.add_tokens([AddedToken("word", normalized=True, single_word=True)])
    return tokenizer, json.loads(tokenizer.to_str())


def fused(sentences):
    """Some byte pieces only, runs of unknown characters as one, splits at strings, a space before the first word."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split("e", "contiguous"), pre_tokenizers.Split(".", "removed"), pre_tokenizers.Split("a", "merged_with_next"),
        pre_tokenizers.Metaspace(prepend_scheme="first")])
    train(tokenizer, sentences, ["<unk>", "<s>"] + byte_pieces()[0:200], 900, **alphabet(sentences, 200))
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="first")])
    return with_model(tokenizer, ["<unk>", "<s>"])


KINDS = (llama2, jamba, metaspace, gpt2, llama3, qwen2, digits, unknown, fused)


class Digest:
    class Value(ctypes.Structure):
        _fields_ = [("low", ctypes.c_uint64), ("high", ctypes.c_uint64)]

    library = ctypes.CDLL("libxxhash.so.0")
    library.XXH3_128bits.restype = Value
    library.XXH3_128bits.argtypes = [ctypes.c_char_p, ctypes.c_size_t]

    def __init__(self):
        self.bytes = bytearray()

    def add_ids(self, ids):
        self.bytes += struct.pack(f"<{len(ids) + 1}I", len(ids), *ids)

    def add_text(self, text):
        content = text.encode("utf-8")
        self.bytes += struct.pack("<I", len(content)) + content

    def hex(self):
        value = self.library.XXH3_128bits(bytes(self.bytes), len(self.bytes))
        return f"{value.high:016x}{value.low:016x}"


def digest_lines(tokenizer, strings):
    for begin in range(0, len(strings), BLOCK):
        digests = [Digest() for _ in range(4)]
        for string in strings[begin : begin + BLOCK]:
            tokenizer.encode_special_tokens = False
            ids = tokenizer.encode(string).ids
            digests[0].add_ids(ids)
            digests[2].add_text(tokenizer.decode(ids))
            digests[3].add_text(tokenizer.decode(ids[::-1], skip_special_tokens=False))
            tokenizer.encode_special_tokens = True
            digests[1].add_ids(tokenizer.encode(string, add_special_tokens=False).ids)
        yield " ".join(digest.hex() for digest in digests) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("tests/data/tokenizers"))
    folder = parser.parse_args().output
    sentences = read_sentences(folder / "sentences.txt")
    strings = make_strings(sentences)
    lines = "".join(json.dumps(string, ensure_ascii=False) + "\n" for string in strings)
    (folder / "strings.jsonl.gz").write_bytes(gzip.compress(lines.encode("utf-8"), 9, mtime=0))
    for kind in KINDS:
        tokenizer, file = kind(sentences)
        text = json.dumps(file, ensure_ascii=False, separators=(",", ":")) + "\n"
        (folder / f"{kind.__name__}.json").write_text(text, encoding="utf-8")
        (folder / f"{kind.__name__}.digests").write_text("".join(digest_lines(tokenizer, strings)))
        print(f"{kind.__name__}: {tokenizer.get_vocab_size()} pieces, {len(text)} bytes")


if __name__ == "__main__":
    main()
