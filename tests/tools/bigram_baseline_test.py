"""Tests of tools/bigram_baseline.py."""

import math
import pathlib
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "tools"))
import bigram_baseline  # noqa: E402

BOS, EOS, VOCABULARY = 1, 2, 9
TOKENS = [BOS, 3, 4, 3, 5, EOS, BOS, 3, 4, 4, 6, EOS, BOS, 5, 3, 4, EOS]


class BigramTest(unittest.TestCase):
    def setUp(self):
        self.model = bigram_baseline.Bigram(TOKENS, VOCABULARY, BOS)

    def test_probabilities_of_every_context_sum_to_one(self):
        for before in range(VOCABULARY):
            total = sum(self.model.probability(before, word) for word in range(VOCABULARY))
            self.assertAlmostEqual(total, 1.0, delta=1e-12)

    def test_a_seen_pair_is_likelier_than_an_unseen_one(self):
        self.assertGreater(self.model.probability(3, 4), self.model.probability(3, 6))
        self.assertGreater(self.model.probability(3, 7), 0)

    def test_documents_do_not_run_into_each_other(self):
        self.assertNotIn((EOS, BOS), self.model.pairs)

    def test_bits_are_the_sum_over_all_tokens_but_bos(self):
        document = [BOS, 3, 7, EOS]
        expected = -sum(
            math.log2(self.model.probability(*pair)) for pair in ((BOS, 3), (3, 7), (7, EOS))
        )
        self.assertAlmostEqual(self.model.bits(document, BOS), expected)
        self.assertAlmostEqual(self.model.bits(document * 2, BOS), 2 * expected)


if __name__ == "__main__":
    unittest.main()
