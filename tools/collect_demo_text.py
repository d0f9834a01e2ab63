#!/usr/bin/env python3
"""Collects the demo's text: the LibreOffice help pages of Debian, in seven languages.

usage: tools/collect_demo_text.py [--cache runs/demo/packages] [--output runs/demo/text]

Downloads the packages libreoffice-help-* (about 21 MB in all), unpacks them into the cache folder
(nothing is installed, no root needed), takes the article of each page as lines of plain text and writes

  OUTPUT/train.jsonl, OUTPUT/heldout.jsonl    one page a line: {"text", "name", "language"}

A page is held out in all languages or in none, by a hash of its path, so that no translation of a
held-out page is ever trained on. Pages quote each other: a held-out line that also stands in a training
page is dropped, where it is long enough not to be a common phrase. Pages that a package carries in English
although it is a translation are dropped. The same packages always give the same bytes.

The text is licensed CC-BY-SA-3.0, Apache-2.0 and BSD (see the packages' copyright files); it stays
on this machine. Standard library only.
"""

import argparse
import hashlib
import html.parser
import json
import multiprocessing
import os
import pathlib
import shutil
import subprocess
import sys

LANGUAGES = ("en-us", "de", "fr", "es", "it", "nl", "pt-br")
HELD_OUT_ONE_IN = 40  # pages
MIN_PAGE_BYTES = 200  # shorter ones are redirects and bare headings
MIN_SHARED_LINE_BYTES = 60  # a held-out line this long must not stand in a training page
MAX_ENGLISH_SHARE = 0.5  # of a translated page's prose bytes

ARTICLE_START = '<div id="DisplayArea"'
ARTICLE_END = '<div id="SearchFrame"'

# Elements that end a line of text before and after themselves.
LINE_TAGS = frozenset("p h1 h2 h3 h4 h5 h6 li tr pre div br dt dd table".split())
VOID_TAGS = frozenset("br img meta input link hr wbr col".split())
INVISIBLE = dict.fromkeys(map(ord, "\u00ad\u200b\ufeff"))  # soft hyphens and spaces of no width
# Lists of links and pictures' captions: not prose.
SKIPPED_CLASSES = frozenset(("relatedtopics", "howtoget", "icontable", "noteicon"))


class ArticleParser(html.parser.HTMLParser):
    """Turns the article of one page into lines: (text, is_code)."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.lines = []
        self._open = []  # (tag, role) of the open elements
        self._skipping = 0  # open elements whose content is dropped
        self._buffer = []  # pieces of the current line
        self._cells = None  # finished cells of the current table row
        self._code_depth = 0
        self._switches = (
            []
        )  # open inline switches: [[is_default, pieces], ...] and the buffer around them

    def handle_starttag(self, tag, attributes):
        if tag in VOID_TAGS:
            if tag == "br":
                self._end_line()
            return
        attributes = dict(attributes)
        classes = (attributes.get("class") or "").split()
        role = ""
        if tag in ("script", "style") or any(name in SKIPPED_CLASSES for name in classes):
            role = "skip"
            self._skipping += 1
        elif tag == "tr" and self._cells is None:
            self._end_line()
            role, self._cells = "row", []
        elif tag in ("td", "th") and self._cells is not None:
            role = "cell"
        elif tag == "pre":
            self._end_line()
            role = "code"
            self._code_depth += 1
        elif tag == "span" and "switchinline" in classes:
            # Variants of a phrase, one per operating system or application: one of them is kept.
            role = "switch"
            self._switches.append(([], self._buffer))
        elif tag == "span" and "hidden" in attributes and self._parent_role() == "switch":
            role = "variant"
            self._buffer = []
            self._switches[-1][0].append(
                ((attributes.get("id") or "").startswith("default"), self._buffer)
            )
        elif tag in LINE_TAGS:
            self._end_line()
        self._open.append((tag, role))

    def handle_endtag(self, tag):
        if all(tag != open_tag for open_tag, _ in self._open):
            return  # a stray end tag
        while True:
            open_tag, role = self._open.pop()
            self._close(open_tag, role)
            if open_tag == tag:
                return

    def handle_data(self, data):
        if not self._skipping:
            self._buffer.append(data)

    def finish(self):
        self.close()
        while self._open:
            self._close(*self._open.pop())
        self._end_line()
        return self.lines

    def _parent_role(self):
        return self._open[-1][1] if self._open else ""

    def _close(self, tag, role):
        if role == "skip":
            self._skipping -= 1
        elif role == "variant":
            self._buffer = []  # text between the variants is blank
        elif role == "switch":
            variants, self._buffer = self._switches.pop()
            chosen = [pieces for is_default, pieces in variants if is_default] or [
                pieces for _, pieces in variants
            ]
            if chosen:
                self._buffer.extend(chosen[0])
        elif role == "cell":
            text = " ".join("".join(self._buffer).split())
            self._buffer.clear()
            if text:
                self._cells.append(text)
        elif role == "row":
            self._end_line()
            cells, self._cells = self._cells, None
            if cells:
                self.lines.append((" | ".join(cells), False))
        elif role == "code":
            self._end_code()
            self._code_depth -= 1
        elif tag in LINE_TAGS:
            self._end_line()

    def _end_line(self):
        if self._code_depth:
            self._buffer.append("\n")
            return
        if self._switches:  # a line break inside a variant of a phrase
            self._buffer.append(" ")
            return
        if self._cells is not None:  # paragraphs of one cell share its line
            self._buffer.append(" ")
            return
        text = " ".join("".join(self._buffer).split())
        self._buffer.clear()
        if text:
            self.lines.append((text, False))

    def _end_code(self):
        code = "".join(self._buffer).replace("\xa0", " ").replace("\t", "    ").strip("\n")
        self._buffer.clear()
        if self._cells is not None:
            self._buffer.append(" ".join(code.split()))
            return
        lines = [line.rstrip() for line in code.split("\n")]
        indent = min((len(line) - len(line.lstrip()) for line in lines if line), default=0)
        self.lines.extend((line[indent:], True) for line in lines if line)


def parse_page(path):
    """Lines of a page's article, [(text, is_code)]; nothing when it has none."""
    text = pathlib.Path(path).read_text(encoding="utf-8", errors="strict")
    start = text.find(ARTICLE_START)
    end = text.find(ARTICLE_END, start)
    if start < 0 or end < 0:
        return []
    parser = ArticleParser()
    parser.feed(text[start:end].translate(INVISIBLE))
    return parser.finish()


def run(command, cwd):
    return subprocess.run(
        command,
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )


def as_root():
    """Words before a command that needs root, or None."""
    if os.geteuid() == 0:
        return []
    return ["sudo", "-n"] if shutil.which("sudo") else None


def download(packages, cache):
    """Fetches the packages into `cache`, once; updates the package lists when they are not there yet."""
    command = ["apt-get", "download", "-q"]
    if os.geteuid() == 0:
        command += [
            "-o",
            "APT::Sandbox::User=root",
        ]  # the download user cannot write into our folder
    missing = [package for package in packages if not list(cache.glob(package + "_*.deb"))]
    if not missing:
        return
    print(f"downloading {' '.join(missing)}", flush=True)
    result = run(command + missing, cache)
    if result.returncode != 0 and as_root() is not None:
        run(as_root() + ["apt-get", "update", "-qq"], cache)
        result = run(command + missing, cache)
    if result.returncode != 0:
        sys.exit(
            f"collect_demo_text: apt-get download failed; is this Debian 12, with a network and "
            f"package lists (apt-get update)?\n{result.stdout}"
        )


def unpack(package, cache):
    """Folder with the package's files."""
    archive = sorted(cache.glob(package + "_*.deb"))[-1]
    folder = cache / archive.stem
    if not folder.exists():
        partial = cache / (archive.stem + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        result = run(["dpkg", "-x", archive.name, partial.name], cache)
        if result.returncode != 0:
            sys.exit(
                f"collect_demo_text: {archive}: dpkg -x failed; remove the file and run again\n{result.stdout}"
            )
        partial.rename(folder)
    return folder


def find_pages(folder):
    """Page name, the same in every language, to its file."""
    roots = list((folder / "usr/share/libreoffice/help").glob("*/text"))
    if len(roots) != 1:
        sys.exit(
            f"collect_demo_text: {folder}: expected one usr/share/libreoffice/help/*/text, found {len(roots)}"
        )
    return {
        path.relative_to(roots[0]).with_suffix("").as_posix(): path
        for path in sorted(roots[0].rglob("*.html"))
    }


def english_share(lines, english):
    """Share of a page's prose bytes whose lines stand word for word in the English page."""
    prose = [text for text, is_code in lines if not is_code and len(text.split()) >= 4]
    total = sum(map(len, prose))
    return sum(len(text) for text in prose if text in english) / total if total else 1.0


def is_held_out(name):
    digest = hashlib.sha256(name.encode()).digest()
    return int.from_bytes(digest[:8], "big") % HELD_OUT_ONE_IN == 0


def read_all(cache):
    """All pages: language -> page name -> lines."""
    download([f"libreoffice-help-{language}" for language in LANGUAGES], cache)
    tasks = []
    for language in LANGUAGES:
        for name, path in find_pages(unpack(f"libreoffice-help-{language}", cache)).items():
            tasks.append((language, name, path))
    pages = {language: {} for language in LANGUAGES}
    with multiprocessing.Pool(len(os.sched_getaffinity(0))) as pool:
        parsed = pool.imap(parse_page, [path for _, _, path in tasks], chunksize=64)
        for (language, name, _), lines in zip(tasks, parsed):
            pages[language][name] = lines
    return pages


def select(pages):
    """Chosen pages: {"train" or "heldout": [(language, name, text)]}, and dropped counts by language."""
    chosen = {"train": [], "heldout": []}
    untranslated = dict.fromkeys(LANGUAGES, 0)
    training_lines = set()
    for language in LANGUAGES:
        for name, lines in pages[language].items():
            if language != LANGUAGES[0]:
                english = {text for text, _ in pages[LANGUAGES[0]].get(name, [])}
                if english_share(lines, english) > MAX_ENGLISH_SHARE:
                    untranslated[language] += 1
                    continue
                # What is left in English inside a translated page is there in the English one.
                lines = [
                    (text, is_code)
                    for text, is_code in lines
                    if is_code or text not in english or len(text.split()) < 4
                ]
            if is_held_out(name):
                chosen["heldout"].append((language, name, lines))
            else:
                training_lines.update(text for text, _ in lines)
                chosen["train"].append((language, name, "\n".join(text for text, _ in lines)))
    chosen["heldout"] = [
        (
            language,
            name,
            "\n".join(
                text
                for text, _ in lines
                if len(text.encode()) < MIN_SHARED_LINE_BYTES or text not in training_lines
            ),
        )
        for language, name, lines in chosen["heldout"]
    ]
    for part, rows in chosen.items():
        chosen[part] = [row for row in rows if len(row[2].encode()) >= MIN_PAGE_BYTES]
    return chosen, untranslated


def write(path, rows):
    partial = path.with_name(path.name + ".partial")
    with open(partial, "w", encoding="utf-8", newline="\n") as file:
        for language, name, text in rows:
            file.write(
                json.dumps(
                    {"text": text, "name": f"{language}/{name}", "language": language},
                    ensure_ascii=False,
                )
                + "\n"
            )
    partial.rename(path)


def print_table(chosen, untranslated):
    def measure(part, language):
        texts = [text for row_language, _, text in chosen[part] if language in (None, row_language)]
        return len(texts), sum(len(text.encode()) for text in texts)

    print(
        f"{'language':10}{'pages':>8}{'bytes':>13}{'held-out pages':>17}{'held-out bytes':>17}{'left in English':>18}"
    )
    for language in LANGUAGES + (None,):
        dropped = sum(untranslated.values()) if language is None else untranslated[language]
        pages, size = measure("train", language)
        held_pages, held_size = measure("heldout", language)
        print(
            f"{language or 'all':10}{pages:8,}{size:13,}{held_pages:17,}{held_size:17,}{dropped:18,}"
        )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cache", type=pathlib.Path, default=pathlib.Path("runs/demo/packages"))
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("runs/demo/text"))
    arguments = parser.parse_args()
    arguments.cache.mkdir(parents=True, exist_ok=True)
    arguments.output.mkdir(parents=True, exist_ok=True)
    chosen, untranslated = select(read_all(arguments.cache))
    for part, rows in chosen.items():
        write(arguments.output / f"{part}.jsonl", rows)
    print_table(chosen, untranslated)


if __name__ == "__main__":
    main()
