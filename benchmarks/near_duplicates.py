"""Near-duplicate removal against datatrove's own MinHash stages, on the same texts, in one run and on one core.

About 200 MB: sources and documentation of Python and of what is installed, and texts of random words with planted
near-duplicates whose Jaccard similarity is known by arithmetic. Time is everything from texts in memory to the list of
texts to drop; both write their intermediate files to a temporary folder.

    python benchmarks/near_duplicates.py [--megabytes 200] [--peer spacy|whitespace|both|none]

datatrove's stock tokenizer for English needs spaCy, its stock hash needs xxhash: pip install 'bessemer[bench]'
"""

from __future__ import annotations

import argparse
import random
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bessemer.data.curate.near import Bands, Library, Sets, clusters_of, sets_of
from corpus import installed_texts

WORDS = 5  # datatrove's default n-gram
JACCARD = 0.8
PIECE = 20_000  # characters of a text at most
PLANTED_WORDS = 404  # 400 n-grams
CHANGED = (2, 4, 6, 8, 9, 10, 12, 14, 20, 27)  # words changed in a copy; each changes WORDS n-grams
PAIRS = 400  # for each of them


def similarity(changed: int) -> float:
    """Jaccard of a text and its copy: changed words lie apart, so each costs WORDS n-grams on both sides."""
    n = PLANTED_WORDS - WORDS + 1
    return (n - WORDS * changed) / (n + WORDS * changed)


def planted(seed: int) -> Iterator[tuple[int, str, str]]:
    """(words changed, text, its copy)."""
    draw = random.Random(seed)

    def word() -> str:
        return "".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(3, 9)))

    for changed in CHANGED:
        for _ in range(PAIRS):
            words = [word() for _ in range(PLANTED_WORDS)]
            copy = list(words)
            step = (PLANTED_WORDS - 2 * WORDS) // changed
            for k in range(changed):
                copy[WORDS + k * step] = word() + "x"
            yield changed, " ".join(words), " ".join(copy)


@dataclass(frozen=True)
class Corpus:
    texts: list[str]
    pairs: list[tuple[int, int, int]]  # words changed, index of the text, index of its copy


def make(megabytes: int) -> Corpus:
    planted_megabytes = 2 * PAIRS * len(CHANGED) * PLANTED_WORDS * 7 / 1e6
    whole = (text for _, text in installed_texts(megabytes - planted_megabytes))
    texts = [text[at : at + PIECE] for text in whole for at in range(0, len(text), PIECE)]
    pairs: list[tuple[int, int, int]] = []
    for changed, text, copy in planted(seed=1):
        pairs.append((changed, len(texts), len(texts) + 1))
        texts += [text, copy]
    order = list(range(len(texts)))
    random.Random(2).shuffle(order)
    place = {old: new for new, old in enumerate(order)}
    return Corpus([texts[i] for i in order], [(c, place[a], place[b]) for c, a, b in pairs])


def ours(texts: list[str], folder: Path) -> set[int]:
    bands = Bands.for_threshold(JACCARD)
    parts: list[Sets] = []
    keys: list[np.ndarray] = []
    for k, at in enumerate(range(0, len(texts), 4096)):  # as the stages do it: part by part, sets on disk
        sets = sets_of(texts[at : at + 4096], WORDS)
        np.save(folder / f"sets-{k}.npy", sets.hashes)
        np.save(folder / f"bands-{k}.npy", bands.keys(sets))
        parts.append(Sets(np.load(folder / f"sets-{k}.npy", mmap_mode="r"), sets.offsets))
        keys.append(np.load(folder / f"bands-{k}.npy", mmap_mode="r"))
    one_by_one = (np.concatenate([k[band] for k in keys]) for band in range(bands.n))
    labels = clusters_of(Library(parts), one_by_one, JACCARD)
    return set(np.flatnonzero(labels != np.arange(len(texts))).tolist())


def datatrove(texts: list[str], folder: Path, tokenizer: str) -> set[int]:
    from datatrove.data import Document
    from datatrove.pipeline.dedup.minhash import (
        MinhashConfig,
        MinhashDedupBuckets,
        MinhashDedupCluster,
        MinhashDedupFilter,
        MinhashDedupSignature,
    )
    from datatrove.utils.word_tokenizers import WhitespaceTokenizer
    from loguru import logger

    logger.disable("datatrove")
    config = MinhashConfig()  # 5-grams, 14 bands of 8: its own defaults
    language = "en" if tokenizer == "spacy" else WhitespaceTokenizer()
    docs = [Document(text, str(i)) for i, text in enumerate(texts)]
    MinhashDedupSignature(str(folder / "sig"), config, language=language).run(iter(docs))  # type: ignore[arg-type]
    for rank in range(config.num_buckets):
        MinhashDedupBuckets(str(folder / "sig"), str(folder / "dups"), config=config).run(
            None, rank, config.num_buckets
        )
    MinhashDedupCluster(str(folder / "dups"), str(folder / "remove"), config=config).run(None, 0, 1)
    kept = {int(d.id) for d in MinhashDedupFilter(str(folder / "remove")).run(iter(docs), 0, 1)}  # type: ignore[arg-type]
    return set(range(len(texts))) - kept


def measure(name: str, find: Callable[[list[str], Path], set[int]], corpus: Corpus) -> tuple[float, set[int]]:
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        dropped = find(corpus.texts, Path(folder))
        took = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"  {name}: {took:.1f} s, {len(dropped)} dropped, peak so far {peak:.0f} MiB", file=sys.stderr)
    return took, dropped


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--megabytes", type=int, default=200)
    asked.add_argument("--peer", choices=["spacy", "whitespace", "both", "none"], default="both")
    options = asked.parse_args()
    corpus = make(options.megabytes)
    n_bytes = sum(len(text.encode()) for text in corpus.texts)
    print(
        f"{len(corpus.texts)} texts, {n_bytes / 1e6:.0f} MB, {len(corpus.pairs)} planted pairs; {WORDS}-grams of words"
    )
    results = {"bessemer": measure("bessemer", ours, corpus)}
    peers = ["spacy", "whitespace"] if options.peer == "both" else [options.peer] if options.peer != "none" else []
    for peer in peers:
        name = f"datatrove, {peer}"
        results[name] = measure(name, lambda texts, folder, p=peer: datatrove(texts, folder, p), corpus)

    names = list(results)
    print(f"\n{'':32}" + "".join(f"{n:>24}" for n in names))
    base = results["bessemer"][0]
    print(f"{'seconds':32}" + "".join(f"{results[n][0]:24.1f}" for n in names))
    print(f"{'MB/s':32}" + "".join(f"{n_bytes / 1e6 / results[n][0]:24.2f}" for n in names))
    print(f"{'times the time of bessemer':32}" + "".join(f"{results[n][0] / base:24.1f}" for n in names))
    for changed in CHANGED:
        cells = ""
        for name in names:
            hit = [a in results[name][1] or b in results[name][1] for c, a, b in corpus.pairs if c == changed]
            cells += f"{np.mean(hit):24.1%}"
        kind = "to drop" if similarity(changed) >= JACCARD else "to keep"
        print(f"{f'dropped at Jaccard {similarity(changed):.3f}, {kind}':32}{cells}")
    wanted = [(similarity(c) >= JACCARD, a, b) for c, a, b in corpus.pairs]
    for label, rate in (("recall", _recall), ("precision", _precision)):
        print(f"{f'{label} (planted)':32}" + "".join(f"{rate(wanted, results[n][1]):24.1%}" for n in names))


def _recall(wanted: list[tuple[bool, int, int]], dropped: set[int]) -> float:
    return float(np.mean([a in dropped or b in dropped for good, a, b in wanted if good]))


def _precision(wanted: list[tuple[bool, int, int]], dropped: set[int]) -> float:
    return float(np.mean([good for good, a, b in wanted if a in dropped or b in dropped]))


if __name__ == "__main__":
    main()
