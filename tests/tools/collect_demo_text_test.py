"""Tests of tools/collect_demo_text.py."""

import pathlib
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "tools"))
import collect_demo_text as collect  # noqa: E402


def parse(article):
    with tempfile.TemporaryDirectory() as folder:
        page = pathlib.Path(folder) / "page.html"
        page.write_text(
            f"<p>menu</p>{collect.ARTICLE_START} class=x>{article}</div>{collect.ARTICLE_END}></div>",
            encoding="utf-8",
        )
        return [text for text, _ in collect.parse_page(page)]


class ArticleParserTest(unittest.TestCase):
    def test_headings_and_paragraphs_become_lines(self):
        self.assertEqual(
            parse("<h1 id='a'>A  <b>title</b>\n</h1><p>One &amp;\n two.</p><script>x()</script>"),
            ["A title", "One & two."],
        )

    def test_links_and_pictures_are_left_out(self):
        self.assertEqual(
            parse(
                "<p>Kept.</p><div class='howtoget'><p>Menu</p></div>"
                "<div class='relatedtopics'><div><p>Link</p></div></div><p>Also <img alt='x'>kept.</p>"
            ),
            ["Kept.", "Also kept."],
        )

    def test_the_default_variant_of_a_phrase_is_kept(self):
        self.assertEqual(
            parse(
                "<p>Press <span class='switchinline'><span hidden='true' id='MACa' class='MAC'>Command</span>"
                "<span hidden='true' id='defaulta'>Ctrl</span></span>+F.</p>"
            ),
            ["Press Ctrl+F."],
        )

    def test_a_table_row_is_one_line(self):
        self.assertEqual(
            parse("<table><tr><th><p>a</p></th><td><p>b</p><p>c</p></td><td></td></tr></table>"),
            ["a | b c"],
        )

    def test_code_keeps_its_lines_and_inner_indentation(self):
        self.assertEqual(
            parse("<pre><code>\n  Sub A\n    x = 1\n  End Sub\n</code></pre>"),
            ["Sub A", "  x = 1", "End Sub"],
        )


class SelectTest(unittest.TestCase):
    def setUp(self):
        self.held_out = next(name for name in map(str, range(1000)) if collect.is_held_out(name))
        self.trained = next(name for name in map(str, range(1000)) if not collect.is_held_out(name))

    def pages(self, english, german):
        pages = {language: {} for language in collect.LANGUAGES}
        pages["en-us"], pages["de"] = english, german
        return pages

    def test_a_page_is_held_out_in_every_language(self):
        page = {
            name: [(f"{name} words of this page " * 20, False)]
            for name in (self.held_out, self.trained)
        }
        german = {name: [(f"{name} Worte dieser Seite " * 20, False)] for name in page}
        chosen, _ = collect.select(self.pages(page, german))
        for part, name in (("heldout", self.held_out), ("train", self.trained)):
            self.assertEqual([row[:2] for row in chosen[part]], [("en-us", name), ("de", name)])

    def test_a_long_line_of_a_training_page_is_not_held_out(self):
        shared = ("a sentence that two pages quote from a third one, word for word, in full", False)
        own = [("the page's own words " * 20, False)]
        chosen, _ = collect.select(
            self.pages(
                {
                    self.trained: [shared, *own],
                    self.held_out: [shared, ("other words " * 30, False)],
                },
                {},
            )
        )
        self.assertNotIn(shared[0], chosen["heldout"][0][2])

    def test_an_untranslated_page_is_dropped(self):
        lines = [("these words were never translated " * 20, False)]
        chosen, untranslated = collect.select(
            self.pages({self.trained: lines}, {self.trained: lines})
        )
        self.assertEqual([row[0] for row in chosen["train"]], ["en-us"])
        self.assertEqual(untranslated["de"], 1)


if __name__ == "__main__":
    unittest.main()
