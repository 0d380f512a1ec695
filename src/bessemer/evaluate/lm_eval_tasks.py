"""Task files of lm-evaluation-harness -> our tasks.

The library itself renders prompts and draws few-shot examples, so that what a model is asked is what it would be asked
there; scoring is ours. What a file may contain is checked before the library sees any of it: it would import Python
(`!function`), fetch from the hub, and render templates without a sandbox. What cannot be expressed here is refused.

Known differences: an exact tie of two choices counts half (there the first one wins); text that looks like a special
token stays text; of a document only its own tokens are scored, also where the tokenizer opens a text with a token.
"""

from __future__ import annotations

import copy
import io
import logging
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

import yaml

from bessemer.data.open import list_files, need
from bessemer.errors import BessemerError, Problem, RecipeError
from bessemer.evaluate.tasks import LoadedTask, Task, with_rows

SEED = 1234  # of few-shot examples: lm-eval's own default
MAX_TOKENS = 256  # of a generated answer, lm-eval's own default
MAX_BYTES = 1_000_000  # of a task file
READERS = {"json": "from_json", "csv": "from_csv", "parquet": "from_parquet"}  # dataset_path: reader of `datasets`
METRICS = {  # output type -> {its metric: ours}; None: another form of what the others say
    "multiple_choice": {"acc": "accuracy", "acc_norm": "accuracy_norm", "acc_bytes": "accuracy_norm"},
    "loglikelihood_rolling": {"bits_per_byte": "bits_per_byte", "byte_perplexity": None, "word_perplexity": None},
    "generate_until": {"exact_match": "exact_match"},
}
AGGREGATIONS = (None, "mean", "bits_per_byte", "weighted_perplexity")
KEYS = {
    "task", "task_alias", "tag", "dataset_path", "dataset_name", "dataset_kwargs", "training_split",
    "validation_split", "test_split", "fewshot_split", "doc_to_text", "doc_to_target", "doc_to_choice", "description",
    "target_delimiter", "fewshot_delimiter", "fewshot_config", "num_fewshot", "metric_list", "output_type",
    "generation_kwargs", "repeats", "filter_list", "should_decontaminate", "doc_to_decontamination_query",
    "gen_prefix", "metadata",
}  # fmt: skip
UNSUPPORTED = {
    "class", "process_docs", "process_results", "custom_dataset", "use_prompt", "doc_to_image", "doc_to_audio",
    "unsafe_code", "group", "task_list",
}  # fmt: skip
MAX_TOKENS_NAMES = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
Config = dict[str, Any]
Row = dict[str, Any]


def load_lm_eval(path: str | Path) -> LoadedTask:
    """Read a task file of lm-evaluation-harness with local data files.

    Raises RecipeError (all mistakes of the file) or BessemerError for what it would run or fetch, for what cannot be
    expressed here, and when lm-eval is not installed.
    """
    path = Path(path)
    config = read_config(path)
    try:
        if problems := list(_problems(config, path)):
            raise RecipeError(str(path), problems)
        need("lm_eval", str(path), "task files of lm-evaluation-harness", extra="lm-eval")
        fields, rows = _convert(config, path)
    except BessemerError:
        raise
    except Exception as error:  # whatever the library, its templates or the data's reader find wrong
        raise BessemerError(
            f"lm-eval cannot read the task ({type(error).__name__}: {str(error).partition(chr(10))[0]})",
            where=str(path),
            fix="correct the file; `lm-eval validate --tasks` says more",
        ) from None
    name = re.sub(r"[^a-z0-9._-]", "-", str(config["task"]).lower()).strip("._-")[:64]
    task = Task.model_validate({"name": name or "task", "items": str(path), **fields})
    return with_rows(task, [(f"document {row['id']}", row) for row in rows], where=str(path))


# -- the file -----------------------------------------------------------------------------------------------


class _Loader(yaml.SafeLoader):
    """Safe YAML; `!function` says what is wrong with it."""


def _refuse_function(loader: Any, node: Any) -> Any:
    raise BessemerError(
        f"`!function {node.value}` (line {node.start_mark.line + 1}) runs Python from beside the file",
        where=str(loader.name),
        fix="write templates instead, or turn the items into a task of kind choice, pairs, generate or perplexity",
    )


_Loader.add_constructor("!function", _refuse_function)


def read_config(path: Path, inside: Sequence[Path] = ()) -> Config:
    """A task file with what it includes; its own keys win. Raises BessemerError, also for anything that runs code."""
    real = path.resolve()
    if real in inside:
        raise BessemerError("it includes itself", where=str(path))
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise BessemerError(f"cannot be read ({error})", where=str(path)) from None
    if len(text.encode()) > MAX_BYTES:
        raise BessemerError(f"larger than {MAX_BYTES} bytes", where=str(path), fix="a task file is a page of text")
    loader = _Loader(text)
    loader.name = str(path)
    try:
        config = loader.get_single_data()
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise BessemerError(f"no valid YAML ({' '.join(str(error).split())})", where=str(path)) from None
    if not isinstance(config, dict):
        raise BessemerError("no mapping of keys to values", where=str(path))
    included = config.pop("include", [])
    merged: Config = {}
    for name in included if isinstance(included, list) else [included]:
        merged |= read_config(path.parent / str(name), (*inside, real))
    return merged | config


def _problems(config: Config, path: Path) -> Iterator[Problem]:
    """Everything that is wrong with the file, without looking at its data."""
    for key in sorted(set(map(str, config)) - KEYS):
        yield Problem(key, "not supported here" if key in UNSUPPORTED else "unknown key", "take it out")
    if not isinstance(config.get("task"), str):
        yield Problem("task", "a name is needed", "a group of tasks is loaded task by task")
    kind = config.get("output_type", "generate_until")
    if kind not in METRICS:
        why = "a single continuation is neither right nor wrong here" if kind == "loglikelihood" else "unknown"
        yield Problem("output_type", f"{kind!r}: {why}", f"one of {', '.join(METRICS)}")
        return
    yield from _data_problems(config, path)
    yield from _metric_problems(config, kind)
    yield from _filter_problems(config, kind)
    if config.get("repeats", 1) != 1:
        yield Problem("repeats", "only 1: answers are not drawn several times", "take it out")
    if kind == "generate_until":
        yield from _generation_problems(config.get("generation_kwargs") or {})


def _data_problems(config: Config, path: Path) -> Iterator[Problem]:
    local = "local data: dataset_path: json, csv or parquet, and dataset_kwargs: {data_files: FILE}"
    reader, options = config.get("dataset_path"), config.get("dataset_kwargs") or {}
    if reader not in READERS or config.get("dataset_name"):
        yield Problem("dataset_path", f"{reader!r} would be fetched from the hub", local)
        return
    if set(options) != {"data_files"}:
        yield Problem("dataset_kwargs", f"only data_files is supported, given {', '.join(options) or 'nothing'}", local)
        return
    for split, address in _addresses(options["data_files"]):
        try:
            _files(address, path)
        except BessemerError as error:
            yield Problem(f"dataset_kwargs.data_files ({split})", f"{address}: {error.what}", error.fix or local)


def _metric_problems(config: Config, kind: str) -> Iterator[Problem]:
    known = METRICS[kind]
    entries = config.get("metric_list")
    if entries is not None and not (isinstance(entries, list) and all(isinstance(e, dict) for e in entries)):
        yield Problem("metric_list", "no list of mappings", "metric_list: [{metric: NAME}]")
        return
    names = [entry.get("metric") for entry in entries or []]
    for i, (name, entry) in enumerate(zip(names, entries or [], strict=True)):
        where = f"metric_list[{i}]"
        if name not in known:
            yield Problem(where, f"{name!r} is not measured here", f"keep of {', '.join(known)} what you need")
            continue
        options = set(entry) - {"metric", "aggregation", "higher_is_better"}
        allowed = {"ignore_case", "ignore_punctuation", "regexes_to_ignore"} if name == "exact_match" else set()
        if entry.get("aggregation") not in AGGREGATIONS or options - allowed:
            yield Problem(where, "an aggregation or option that is not supported", "take it out")
    if entries is not None and not any(known.get(name) for name in names):
        yield Problem("metric_list", "names nothing that is measured here", f"known: {', '.join(known)}")
    if {"acc_norm", "acc_bytes"} <= set(names):
        yield Problem("metric_list", "acc_norm divides by characters, acc_bytes by bytes", "keep one of them")


def _filter_problems(config: Config, kind: str) -> Iterator[Problem]:
    pipelines = config.get("filter_list")
    if pipelines is None:
        return
    if len(pipelines) != 1:
        names = ", ".join(str(p.get("name")) for p in pipelines)
        yield Problem("filter_list", f"{len(pipelines)} pipelines ({names}) are as many numbers", "keep one of them")
        return
    steps = [step.get("function") for step in pipelines[0].get("filter", [])]
    allowed = [["take_first"]]
    if kind == "generate_until":
        allowed += [[f, "take_first"] for f in ("regex", "remove_whitespace")]
        allowed += [["regex", "remove_whitespace", "take_first"]]
    if steps not in allowed:
        yield Problem(
            "filter_list[0]", f"{', '.join(map(str, steps))} cannot be expressed here", "regex or remove_whitespace"
        )
        return
    first = pipelines[0]["filter"][0]
    if set(first) - {"function", "regex_pattern", "group_select"} or first.get("group_select", 0) not in (0, -1):
        yield Problem("filter_list[0]", "a regex has regex_pattern, and group_select 0 (first) or -1 (last)")


def _generation_problems(options: Mapping[str, Any]) -> Iterator[Problem]:
    for key in sorted(set(options) - {"until", "do_sample", "temperature", *MAX_TOKENS_NAMES}):
        yield Problem(f"generation_kwargs.{key}", "not supported", "take it out")
    drawn = float(options.get("temperature") or 0) > 0 and options.get("do_sample") is not False
    if options.get("do_sample") or drawn:
        yield Problem("generation_kwargs", "answers are drawn; here the likeliest one is taken", "do_sample: false")


def _addresses(data_files: Any) -> list[tuple[str, str]]:
    """(split, address): one address or several, for one split or by split."""
    by_split = data_files if isinstance(data_files, dict) else {"train": data_files}
    return [(str(s), str(a)) for s, own in by_split.items() for a in (own if isinstance(own, list) else [own])]


def _files(address: str, path: Path) -> list[str]:
    """The local files of an address; as lm-eval reads it from where the command runs, or else from beside the file."""
    if "://" in address or "::" in address or address.startswith(("hf:", "dataset:")):
        raise BessemerError("no local file", fix="fetch it first, and give the file")
    beside = path.parent / address
    found = list_files(str(beside) if not Path(address).exists() and beside.exists() else address)
    packed = [f.name for f in found if f.packing]
    if packed:
        raise BessemerError(f"{packed[0]} is compressed", fix="unpack it")
    return [f.path for f in found]


# -- the documents ------------------------------------------------------------------------------------------


def _convert(config: Config, path: Path) -> tuple[dict[str, Any], list[Row]]:
    """(fields of the task, rows)."""
    from lm_eval.api.task import ConfigurableTask  # pyright: ignore[reportMissingImports]

    with _sandboxed(), _quiet(), tempfile.TemporaryDirectory() as cache:
        splits = _read_splits(config, path, cache)
        # Not `load_dataset`, which tells a server of every use.
        more = {"custom_dataset": lambda: splits, "dataset_kwargs": None, "metadata": None}
        theirs: Any = ConfigurableTask(config=copy.deepcopy(config) | more)
        theirs.set_fewshot_seed(SEED)
        theirs.build_all_requests()
        requests: dict[int, list[Any]] = {}
        for instance in theirs.instances:
            requests.setdefault(instance.doc_id, []).append(instance)
        convert = {"multiple_choice": _choices, "loglikelihood_rolling": _documents, "generate_until": _questions}
        return convert[theirs.OUTPUT_TYPE](theirs, requests)


def _read_splits(config: Config, path: Path, cache: str) -> dict[str, Any]:
    import datasets  # pyright: ignore[reportMissingImports]

    datasets.disable_progress_bars()
    read = getattr(datasets.Dataset, READERS[config["dataset_path"]])
    files: dict[str, list[str]] = {}
    for split, address in _addresses(config["dataset_kwargs"]["data_files"]):
        files.setdefault(split, []).extend(_files(address, path))
    return {split: read(own, cache_dir=cache, keep_in_memory=True) for split, own in files.items()}


@contextmanager
def _sandboxed() -> Iterator[None]:
    """lm-eval renders templates in an environment of its own that reaches any Python; here in Jinja's sandbox instead.

    Raises BessemerError when this version of lm-eval keeps its environment elsewhere.
    """
    from jinja2.exceptions import SecurityError
    from jinja2.sandbox import SandboxedEnvironment
    from lm_eval import utils  # pyright: ignore[reportMissingImports]

    theirs = utils.env
    safe = SandboxedEnvironment(undefined=theirs.undefined, keep_trailing_newline=True)
    safe.filters["regex_replace"] = theirs.filters["regex_replace"]
    utils.env = safe
    try:
        try:
            utils.apply_template("{{ ''.__class__.mro() }}", {})
        except SecurityError:
            pass
        else:
            raise BessemerError(
                "this version of lm-eval renders templates outside of the sandbox",
                where="lm-eval",
                fix="install the version of constraints.txt",
            )
        yield
    finally:
        utils.env = theirs


@contextmanager
def _quiet() -> Iterator[None]:
    """Without progress bars, and without the warnings about how we use the library."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with redirect_stderr(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)


def _metrics(theirs: Any) -> list[str]:
    return list(theirs._metric_fn_list)


def _choices(theirs: Any, requests: Mapping[int, list[Any]]) -> tuple[dict[str, Any], list[Row]]:
    """Choices after one question; pairs where nothing stands before two sentences."""
    metrics = _metrics(theirs)
    found = [_choice(theirs, i, own, metrics) for i, own in requests.items()]
    if metrics == ["acc"] and all(not context and len(row["choices"]) == 2 for context, row in found):
        return {"kind": "pairs"}, [_pair(row, theirs.config.target_delimiter) for _, row in found]
    primary = METRICS["multiple_choice"][metrics[0]]
    return {"kind": "choice", "metric": primary}, [row for _, row in found]


def _choice(theirs: Any, number: int, instances: Sequence[Any], metrics: Sequence[str]) -> tuple[str, Row]:
    """(context, row). What stands between question and choice goes to the question when it is mere space, which does
    not change what is scored; otherwise to every choice."""
    doc, delimiter = instances[0].doc, theirs.config.target_delimiter
    choices, right = theirs.doc_to_choice(doc), theirs.doc_to_target(doc)
    contexts = {instance.args[0] for instance in instances}
    where = f"document {number}"
    if theirs.multiple_input or len(contexts) != 1:
        raise BessemerError("its choices stand in the question, not after it", where=where, fix="write them as pairs")
    if isinstance(right, list):
        raise BessemerError("several choices are right", where=where, fix="give one")
    if isinstance(right, str) and right in choices:
        right = choices.index(right)
    if not isinstance(right, int) or not 0 <= right < len(choices):
        raise BessemerError(f"the target {right!r} is none of {len(choices)} choices", where=where)
    (context,) = contexts
    assert [context + i.args[1] for i in instances] == [context + delimiter + c for c in choices]
    mere_space = not delimiter.strip()
    row: Row = {"id": str(number), "prompt": context, "choices": [delimiter + c for c in choices], "answer": right}
    if mere_space:
        row |= {"prompt": context + delimiter, "choices": list(choices)}
    lengths = [len(c.encode()) if "acc_bytes" in metrics else len(c) for c in choices]
    if lengths != [len(c.encode()) for c in row["choices"]]:
        row["lengths"] = lengths
    return context, row


def _pair(row: Row, delimiter: str) -> Row:
    texts = row["choices"] if delimiter.strip() else [delimiter + c for c in row["choices"]]
    return {"id": row["id"], "good": texts[row["answer"]], "bad": texts[1 - row["answer"]]}


def _documents(theirs: Any, requests: Mapping[int, list[Any]]) -> tuple[dict[str, Any], list[Row]]:
    return {"kind": "perplexity"}, [{"id": str(i), "text": own[0].args[0]} for i, own in requests.items()]


def _questions(theirs: Any, requests: Mapping[int, list[Any]]) -> tuple[dict[str, Any], list[Row]]:
    options: dict[str, Any] = theirs.config.generation_kwargs
    until = options.get("until") or []
    match = _match(theirs.config)
    rows: list[Row] = []
    for i, own in requests.items():
        doc = own[0].doc
        target = theirs.doc_to_target(doc)
        if theirs.config.doc_to_choice is not None:
            target = theirs.doc_to_choice(doc)[target]
        answers = [str(t) for t in (target if isinstance(target, list) else [target])]
        if not answers or (match["strip"] and any(a != a.strip() for a in answers)):
            raise BessemerError(
                f"the target {target!r} is empty, or has spaces at its ends that a filter takes from the answers",
                where=f"document {i}",
                fix="end the template doc_to_target with |trim",
            )
        rows.append({"id": str(i), "prompt": own[0].args[0], "answers": answers})
    most = next((options[name] for name in MAX_TOKENS_NAMES if options.get(name) is not None), MAX_TOKENS)
    stop = [s for s in ([until] if isinstance(until, str) else until) if s]
    return {"kind": "generate", "max_tokens": most, "stop": stop, "match": match}, rows


def _match(config: Any) -> dict[str, Any]:
    """When an answer is right, from the filters and the options of exact_match."""
    steps: list[Config] = config.filter_list[0]["filter"] if config.filter_list else []
    filters = {step["function"]: step for step in steps}
    options: Config = config.metric_list[0] if config.metric_list else {}
    match: dict[str, Any] = {
        "how": "exact",
        "strip": bool(filters.keys() & {"regex", "remove_whitespace"}),
        "ignore_case": bool(options.get("ignore_case")),
        "ignore_punctuation": bool(options.get("ignore_punctuation")),
        "ignore": list(options.get("regexes_to_ignore") or []),
    }
    if "regex" in filters:
        step = filters["regex"]
        pattern = step.get("regex_pattern", r"#### (\-?[0-9\.\,]+)")
        match |= {"how": "regex", "pattern": pattern, "which": "last" if step.get("group_select") == -1 else "first"}
    return match
