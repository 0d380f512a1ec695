"""Data: documents to packed rows, batches, memory, each beside its peers on the same text in one run.

    python benchmarks/data.py tokens  [--mb 200] [--repeats 3]
    python benchmarks/data.py batches
    python benchmarks/data.py memory  [--mb 2000]

tokens: JSONL -> token ids -> packed rows of 2,048. Ours (token set + best fit, digests and fsync included), with and
without the fast engine, against the tokenizer alone (`encode_batch_fast` on texts in memory), Hugging Face `datasets`
map + TRL `pack_dataset`, and datatrove's own tokenizer pipeline (which does not pack). Interleaved; ratios of medians.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from rich.console import Console
from rich.table import Table

from corpus import write_corpus

ROW = 2048
START = "smollm2-135m@post"


def model_folder() -> Path:
    from bessemer.families.fetch import resolve

    return resolve(START).path


# -- tokens -----------------------------------------------------------------------------------------------------


def ours(corpus: Path, folder: Path, model: Path) -> int:
    from bessemer.data import Packer, Renderer, Source, pack_source

    os.environ["BESSEMER_HOME"] = str(folder)
    packed = pack_source("corpus", Source(str(corpus)), Renderer(model), Packer(ROW))
    return packed.n_tokens


def ours_without(corpus: Path, folder: Path, model: Path) -> int:
    """As where fastokens is not installed."""
    from bessemer.data import encode

    encode.WORTH = sys.maxsize
    return ours(corpus, folder, model)


def bare(corpus: Path, folder: Path, model: Path) -> int:
    """The tokenizer alone, on texts that are in memory already: the clock starts after reading."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    with corpus.open() as file:
        texts = [json.loads(line)["text"] for line in file]
    begun = time.perf_counter()
    n = 0
    for at in range(0, len(texts), 512):
        n += sum(len(e) for e in tokenizer.encode_batch_fast(texts[at : at + 512], add_special_tokens=False))
    bare.seconds = time.perf_counter() - begun  # type: ignore[attr-defined]
    return n


def datasets_and_trl(corpus: Path, folder: Path, model: Path) -> int:
    import datasets
    from transformers import AutoTokenizer
    from trl import pack_dataset

    datasets.disable_progress_bars()
    tokenizer = AutoTokenizer.from_pretrained(model)
    raw = datasets.load_dataset("json", data_files=str(corpus), split="train", cache_dir=str(folder))
    ids = raw.map(
        lambda batch: {"input_ids": tokenizer(batch["text"])["input_ids"]},
        batched=True,
        remove_columns=raw.column_names,
        load_from_cache_file=False,
    )
    packed = pack_dataset(ids, ROW, "bfd_split", {"load_from_cache_file": False})
    return sum(len(x) for x in packed.with_format("numpy")["input_ids"])


def datatrove(corpus: Path, folder: Path, model: Path) -> int:
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.tokens import DocumentTokenizer

    out = folder / "tokens"
    steps = [
        JsonlReader(str(corpus.parent), glob_pattern=corpus.name),
        DocumentTokenizer(str(out), str(model / "tokenizer.json"), eos_token="<|endoftext|>"),  # noqa: S106
    ]
    LocalPipelineExecutor(steps, logging_dir=str(folder / "logs"), tasks=1).run()
    return sum(p.stat().st_size for p in out.glob("*.ds")) // 2


Arm = Callable[[Path, Path, Path], int]
ARMS: dict[str, Arm] = {
    "ours": ours,
    "ours without fastokens": ours_without,
    "bare encode_batch_fast": bare,
    "datasets map + TRL": datasets_and_trl,
    "datatrove": datatrove,
}


def run_arm(name: str, corpus: Path, model: Path) -> tuple[float, int, int]:
    """(seconds, tokens, peak bytes) in a process of its own."""
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import data; data.child({name!r})"
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", code, str(corpus), folder, str(model)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"{name} failed:\n{done.stderr[-2000:]}")
    seconds, tokens, peak = json.loads(done.stdout.splitlines()[-1])
    return seconds, tokens, peak


IMPORTS = {
    "ours": ("bessemer.data", "transformers", "fastokens"),
    "ours without fastokens": ("bessemer.data", "transformers"),
    "bare encode_batch_fast": ("tokenizers",),
    "datasets map + TRL": ("datasets", "transformers", "trl"),
    "datatrove": ("datatrove.executor", "datatrove.pipeline.readers", "datatrove.pipeline.tokens"),
}


def child(name: str) -> None:
    """The clock starts after the imports, for every arm."""
    corpus, folder, model = (Path(p) for p in sys.argv[1:4])
    for module in IMPORTS[name]:
        importlib.import_module(module)
    from transformers import AutoTokenizer

    AutoTokenizer.from_pretrained(model)  # loads lazily imported parts
    begun = time.perf_counter()
    tokens = ARMS[name](corpus, folder, model)
    seconds = getattr(ARMS[name], "seconds", time.perf_counter() - begun)
    print(json.dumps([seconds, tokens, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024]))


def tokens(megabytes: float, repeats: int, arms: list[str]) -> None:
    model = model_folder()
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder) / "corpus.jsonl"
        n, size = write_corpus(corpus, megabytes)
        print(f"{n} documents, {size / 1e6:.0f} MB of text, rows of {ROW} tokens", flush=True)
        seconds: dict[str, list[float]] = {name: [] for name in arms}
        facts: dict[str, tuple[int, int]] = {}
        for _ in range(repeats):
            for name in arms:
                took, count, peak = run_arm(name, corpus, model)
                seconds[name].append(took)
                facts[name] = count, peak
                print(f"  {name}: {took:.1f} s, {count / 1e6:.1f}M tokens", flush=True)
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("arm", "seconds (median)", "MB/s", "tokens/s", "peak", "ours is x times as fast"):
        table.add_column(column, justify="left" if column == "arm" else "right")
    own = statistics.median(seconds["ours"])
    for name in arms:
        median, (count, peak) = statistics.median(seconds[name]), facts[name]
        table.add_row(
            name,
            f"{median:.1f}",
            f"{size / 1e6 / median:.2f}",
            f"{count / median / 1e6:.2f}M",
            f"{peak / 2**30:.2f} GiB",
            f"{median / own:.2f}",
        )
    Console().print(table)


# -- batches ----------------------------------------------------------------------------------------------------


def big_token_set(home: Path, part: Path, n_parts: int) -> None:
    """A token set of n_parts times the same part: linked, so ten gigabytes cost the disk of one part."""
    from bessemer.files import read_json, write_json

    folder = home / "tokens" / "big" / "1"
    about = read_json(part / "part.json")
    for i in range(n_parts):
        shutil.copytree(part, folder / f"part-{i:05d}", copy_function=os.link)
    parts = [about | {"folder": f"part-{i:05d}"} for i in range(n_parts)]
    sums = {key: about[key] * n_parts for key in ("read", "items", "tokens", "supervised")}
    manifest = {"format": "bessemer.tokens/1", "name": "big", "version": 1, "fingerprint": "x", "ingredients": {}}
    write_json(folder / "manifest.json", {**manifest, **sums, "licences": {}, "parts": parts})


def batches() -> None:
    from bessemer.data import Mixture, Packer, Renderer, Source, pack_source
    from bessemer.data import batches as make_batches
    from bessemer.data.batch import PackedSource
    from bessemer.data.shards import open_tokens

    model = model_folder()
    with tempfile.TemporaryDirectory(dir=Path.home()) as folder:
        os.environ["BESSEMER_HOME"] = folder
        corpus = Path(folder) / "corpus.jsonl"
        write_corpus(corpus, 60)
        own = pack_source("corpus", Source(str(corpus)), Renderer(model), Packer(ROW))
        rows = 2000
        mixture = Mixture({"corpus": 1}, {"corpus": own.n_rows}, n_rows=rows)
        begun = time.perf_counter()
        n = sum(len(b.tokens_N) for b in make_batches([own], mixture, rows=4))
        took = time.perf_counter() - begun
        print(f"batches: {n / took / 1e6:.1f}M tokens/s, {rows / took:.0f} rows of {ROW}/s in one process", flush=True)
        part = next(own.tokens.folder.glob("part-00000"))
        size = sum(p.stat().st_size for p in part.iterdir())
        big_token_set(Path(folder), part, round(10e9 / size))
        begun = time.perf_counter()
        tokens = open_tokens("big@1")
        packed = tokens.pack(Packer(ROW), grouped=False)
        print(f"packing {tokens.n_tokens / 1e9:.1f}G tokens (once): {time.perf_counter() - begun:.1f} s", flush=True)
        begun = time.perf_counter()
        tokens = open_tokens("big@1")
        packed = tokens.pack(Packer(ROW), grouped=False)
        big = PackedSource("big", tokens, packed)
        mixture = Mixture({"big": 1}, {"big": big.n_rows}, n_rows=big.n_rows)
        first = next(make_batches([big], mixture, rows=8))
        print(
            f"first batch of a {tokens.n_tokens * 2 / 1e9:.1f} GB token set: {time.perf_counter() - begun:.2f} s "
            f"({len(first.tokens_N)} tokens, {big.n_rows} rows)"
        )


# -- memory -----------------------------------------------------------------------------------------------------


def memory(megabytes: float) -> None:
    model = model_folder()
    with tempfile.TemporaryDirectory(dir=Path.home()) as folder:
        corpus = Path(folder) / "corpus.jsonl"
        _, size = write_corpus(corpus, megabytes)
        took, count, peak = run_arm("ours", corpus, model)
        print(f"{size / 1e9:.2f} GB -> {count / 1e6:.0f}M tokens in {took:.0f} s, peak {peak / 2**30:.2f} GiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["tokens", "batches", "memory"])
    parser.add_argument("--mb", type=float)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--arms", nargs="*", default=list(ARMS))
    options = parser.parse_args()
    if options.what == "tokens":
        tokens(options.mb or 200, options.repeats, options.arms)
    elif options.what == "batches":
        batches()
    else:
        memory(options.mb or 2000)


if __name__ == "__main__":
    main()
