from __future__ import annotations

import random
import re
import unicodedata
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bessemer.data.curate import near
from bessemer.data.curate.near import Bands, Clusters, Library, Sets, near_duplicates, ngrams_of, sets_of, words_of


def plain_words(text: str) -> list[str]:
    """The same words, found letter by letter: an oracle without numpy."""
    text = near.normalise(text)
    kinds = near._kinds()
    words, word = [], ""
    for c in text:
        kind = kinds[ord(c)]
        if kind != 1 and word:
            words.append(word)
            word = ""
        if kind == 2:
            words.append(c)
        elif kind == 1:
            word += c
    return [*words, word] if word else words


def plain_set(text: str, n: int) -> set[tuple[str, ...]]:
    words = plain_words(text)
    return {tuple(words[i : i + n]) for i in range(max(len(words) - n + 1, 1))} if words else set()


def jaccard(a: set[tuple[str, ...]], b: set[tuple[str, ...]]) -> float:
    return len(a & b) / len(a | b) if a | b else 0.0


near._kinds(), near._powers()  # tables, made once: no test is timed with them

words = st.sampled_from(["Spam", "eggs", "ham", "über", "日本", "語", "😂", "x1", "don't", "e\u0301t\u00e9", "ＡＢ"])
texts = st.lists(st.lists(words, max_size=14).map(" ".join), min_size=1, max_size=8)


@settings(deadline=None)
@given(texts, st.integers(1, 5))
def test_sets_are_the_sets_of_an_oracle(found: list[str], n: int) -> None:
    sets = sets_of(found, n)
    assert sets.sizes.tolist() == [len(plain_set(t, n)) for t in found]
    for i in range(len(found)):
        for j in range(len(found)):
            library = Library([sets])
            got = near.overlap(library.take(np.array([i])), library.take(np.array([j])))[0]
            assert got == pytest.approx(jaccard(plain_set(found[i], n), plain_set(found[j], n)))


@settings(deadline=None)
@given(st.text(max_size=60))
def test_words_of_any_text(text: str) -> None:
    assert words_of([text, "between", text]).lengths.tolist() == [len(plain_words(text)), 1, len(plain_words(text))]


@pytest.mark.parametrize(
    ("text", "n"),
    [("Hello, world", 2), ("日本語", 3), ("😂😂 ok", 3), ("!!! ...", 0), ("", 0), ("นก", 2), ("हिन्दी", 1), ("❤️", 1)],
)
def test_what_counts_as_a_word(text: str, n: int) -> None:
    assert words_of([text]).lengths.tolist() == [n]


def test_case_width_and_punctuation_do_not_count() -> None:
    assert near_duplicates(
        ["Buy NOW: ｃｈｅａｐ pills!!!", "something else entirely", "buy now cheap pills"]
    ).tolist() == [0, 1, 0]


def test_giant_texts_are_cut_between_words(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["first one", " ".join(f"word{i}" for i in range(500)), "x" * 300, "last one"]
    whole = words_of(texts)
    monkeypatch.setattr(near, "BLOCK", 100)
    cut = words_of(texts)
    lengths = whole.lengths.tolist()
    assert cut.lengths.tolist() == [2, 500, 3, 2]  # only the word that is longer than a block is cut
    before = lengths[0] + lengths[1]
    assert np.array_equal(cut.hashes[:before], whole.hashes[:before])
    assert np.array_equal(cut.hashes[-2:], whole.hashes[-2:])


@settings(deadline=None)
@given(texts, st.sampled_from([0.5, 0.8, 1.0]), st.integers(1, 3))
def test_no_pair_below_the_threshold_is_joined_and_nearly_all_above_are(found: list[str], t: float, n: int) -> None:
    """Clusters against the connected components that brute force finds."""
    expected = Clusters(len(found))
    sets = [plain_set(text, n) for text in found]
    for i in range(len(found)):
        for j in range(i):
            if sets[i] and jaccard(sets[i], sets[j]) >= t:
                expected.join(np.array([j]), np.array([i]))
    got = near_duplicates(found, jaccard=t, words=n)
    assert all(expected.labels()[i] == expected.labels()[label] for i, label in enumerate(got))  # never too much
    same = [i for i in range(len(found)) for j in range(i) if sets[i] and sets[i] == sets[j]]
    assert all(got[i] != i for i in same)  # equal sets are never missed


def planted(changed: int, n_words: int = 204, pairs: int = 50) -> list[str]:
    draw = random.Random(changed)
    texts: list[str] = []
    for p in range(pairs):
        words = [f"w{draw.randrange(10**6)}" for _ in range(n_words)]
        copy = list(words)
        for k in range(changed):
            copy[5 + k * (n_words - 10) // changed] = f"new{p}x{k}"
        texts += [" ".join(words), " ".join(copy)]
    return texts


@pytest.mark.parametrize(("changed", "share"), [(1, 1.0), (3, 1.0), (4, 1.0), (5, 0.0), (8, 0.0)])
def test_planted_pairs_of_known_similarity(changed: int, share: float) -> None:
    """200 n-grams of 5; each changed word costs 5 on both sides: 4 changes are 180/220 = 0.82, 5 are 0.78."""
    labels = near_duplicates(planted(changed), jaccard=0.8, words=5)
    assert (labels[1::2] == np.arange(0, len(labels), 2)).mean() == share
    assert (labels[::2] == np.arange(0, len(labels), 2)).all()


def test_bands_find_the_threshold() -> None:
    for t in (0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.99, 1.0):
        bands = Bands.for_threshold(t)
        assert bands.n * bands.rows <= near.MOST_HASHES
        assert (1 - min(t, 1 - 1e-12) ** bands.rows) ** bands.n <= near.MISSED


def test_parts_and_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [t for c in (1, 4, 6) for t in planted(c, 60, 10)] + ["", "!", "one two"] * 2
    whole = near_duplicates(texts)
    bands = Bands.for_threshold(0.8)
    parts = [sets_of(texts[a:b], 3) for a, b in pairwise([0, 7, 7, 31, len(texts)])]
    keys = np.concatenate([bands.keys(p) for p in parts], axis=1)
    monkeypatch.setattr(near, "PAIR_BLOCK", 50)
    labels = near.clusters_of(Library(parts), list(keys), 0.8)
    assert labels.tolist() == whole.tolist()
    assert whole[-3:].tolist() == [len(texts) - 3, len(texts) - 2, len(texts) - 4]  # no words: like nothing else


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=40))
def test_clusters_are_connected_components_named_by_their_first(pairs: list[tuple[int, int]]) -> None:
    clusters = Clusters(31)
    if pairs:
        clusters.join(np.array([a for a, _ in pairs]), np.array([b for _, b in pairs]))
    names = list(range(31))
    for _ in range(31):
        for a, b in pairs:
            names[a] = names[b] = min(names[a], names[b])
    assert clusters.labels().tolist() == names


def test_the_empty_list() -> None:
    assert near_duplicates([]).tolist() == []
    assert near_duplicates(["", " "]).tolist() == [0, 1]


def test_unicode_forms_are_one() -> None:
    text = "Café am Fluß"
    forms = [unicodedata.normalize(f, text) for f in ("NFC", "NFD", "NFKC", "NFKD")]
    assert near_duplicates(forms).tolist() == [0, 0, 0, 0]
    assert re.sub("é", "e", forms[0]) != forms[0]


def test_sets_are_sorted_and_without_repeats() -> None:
    sets = sets_of(["a b c a b c a b c", "z"], 2)
    assert sets.sizes.tolist() == [3, 1]
    assert isinstance(sets, Sets) and (np.diff(sets.hashes[:3].astype(np.int64)) > 0).all()


def test_a_short_text_has_one_ngram_of_all_its_words() -> None:
    grams = ngrams_of(words_of(["yes", "yes please", "yes please do", "yes please do it"]), 3)
    assert grams.lengths.tolist() == [1, 1, 1, 2]
    assert len(set(grams.hashes.tolist())) == 4
