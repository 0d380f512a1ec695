"""Data set repositories as the Hugging Face hub lays them out: which files a configuration and a split mean.

The README's front matter decides (`configs:`); without one, file and folder names do (`train-00000.parquet`,
`test/part.jsonl`), as the hub's documentation describes. No script of a repository is ever run.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import yaml

from bessemer.data.formats import WHOLE, is_data, split_name
from bessemer.errors import BessemerError
from bessemer.files import sha256_text

ADDRESS = re.compile(r"hf:(?P<id>[\w.-]+/[\w.-]+)(?:@(?P<revision>refs/\w+/[^/]+|[^/]+))?(?:/(?P<rest>.+))?")
SAVED = ("dataset_dict.json", "dataset_info.json", "state.json")  # of save_to_disk()
ABOUT = {*SAVED, "dataset_infos.json", "LICENSE.txt", "license.txt"}
LAID_OUT = {"configs", "dataset_info"}  # keys of a README's front matter that say which files there are
CARD = {"license", "tags", "language", "pretty_name", "task_categories", "task_ids", "size_categories"}
SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
HELD_OUT = ("validation", "test")  # never what somebody means who names no split
UNNAMED = "unnamed"  # files that name no split, beside files that do
Configs = dict[str, dict[str, list[str]]]  # configuration -> split -> file names


def fetch(address: str, where: str) -> tuple[Path, list[str]]:
    """(folder, names of the data files in it) of hf:owner/name[@revision][/path-or-split][?bytes=N], in our cache.

    The revision is pinned to a commit the first time. With bytes: as few files, in an order that depends on their names
    only, as together have so many; of a repository of terabytes nobody wants all. A folder BESSEMER_MIRROR/owner/name
    stands for the repository where there is one. Raises BessemerError when the hub cannot deliver it.
    """
    from bessemer.families import hub

    whole, _, wanted = address.partition("?bytes=")
    match = ADDRESS.fullmatch(whole)
    if not match or not (wanted.isdecimal() or address == whole):
        raise BessemerError(
            f"{address!r} is no repository", where=where, fix="write hf:owner/name[@revision][/path-or-split][?bytes=N]"
        )
    if copy := hub.mirror(match["id"]):
        names = _names_below(copy)
        found = choose(names, _front_matter(copy / "README.md"), match["rest"] or "", whole, where)
        return copy, _sample(found, {n: (copy / n).stat().st_size for n in found}, wanted, whole)
    address = whole
    revision = match["revision"]
    name = f"hf:{match['id']}@{revision}" if revision else f"hf:{match['id']}"
    repository = hub.pin(name, match["id"], revision, "dataset")
    readme = repository.download(["README.md"]) / "README.md" if "README.md" in repository.files else None
    names = choose(repository.files, _front_matter(readme), match["rest"] or "", address, where)
    names = _sample(names, {f.name: f.n_bytes for f in repository.facts}, wanted, address)
    return repository.download(names), names


def _names_below(folder: Path) -> list[str]:
    names = (p.relative_to(folder).as_posix() for p in sorted(folder.rglob("*")) if p.is_file())
    return [n for n in names if not n.startswith(".")]


def _sample(names: list[str], sizes: dict[str, int], wanted: str, address: str) -> list[str]:
    """As few of the files as have so many bytes together; all of them when nothing is wanted in particular."""
    if not wanted:
        return names
    if unknown := [n for n in names if n not in sizes]:
        raise BessemerError(f"the hub does not say how large {unknown[0]} is", where=address, fix="leave ?bytes= out")
    taken: list[str] = []
    n_bytes = 0
    for name in sorted(names, key=sha256_text):
        if taken and n_bytes >= int(wanted):
            break
        taken.append(name)
        n_bytes += sizes[name]
    return sorted(taken)


def names_in_clone(folder: Path, rest: str, where: str) -> list[str]:
    """The data files that `rest` (empty, a split, CONFIG/SPLIT) means in a local clone; none when it is no clone."""
    readme = folder / "README.md"
    meta = _front_matter(readme) if readme.is_file() else {}
    laid_out = meta.keys() & LAID_OUT or any((folder / n).is_file() for n in SAVED)
    if not laid_out and not meta.keys() & CARD:  # most folders; they may be large
        return []
    names = _names_below(folder)
    rows = (n for n in names if is_data(n) and split_name(n)[0] not in WHOLE and n.rpartition("/")[2] not in ABOUT)
    if not laid_out and not any(rows):
        return []
    return choose(names, meta, rest, str(folder), where)


def has_configuration(folder: Path, name: str) -> bool:
    """Whether the card of a local clone declares a configuration of this name."""
    return any(entry.get("config_name") == name for entry in _entries(_front_matter(folder / "README.md")))


def _entries(meta: dict[str, Any]) -> list[dict[str, Any]]:
    """What a card's `configs:` lists."""
    configs = meta.get("configs")
    return [entry for entry in cast(list[Any], configs) if isinstance(entry, dict)] if isinstance(configs, list) else []


def choose(names: Iterable[str], meta: dict[str, Any], rest: str, address: str, where: str) -> list[str]:
    """The files that a configuration, a split, both, or a path of the repository names.

    Raises BessemerError when several readings are possible (test data must not slip into training) or none is.
    """
    data = sorted(n for n in names if is_data(n) and not n.endswith(".md") and n.rpartition("/")[2] not in ABOUT)
    configs, default = _configs(data, meta)
    config, split = _split_address(rest, configs, default)
    base = address.removesuffix(f"/{rest}") if rest else address
    if config is None:
        found = [n for n in data if n == rest or n.startswith(f"{rest}/") or _fits(n, rest)]
        if found:
            return found
        known = ", ".join(f"{c}/{s}" for c, splits in configs.items() for s in splits)
        raise BessemerError(
            f"{base} has no {rest or 'data files'}", where=where or address, fix=f"it has {known or 'none'}"
        )
    if not config:
        raise BessemerError(
            f"{base} has the configurations {', '.join(configs)}",
            where=where or address,
            fix=f"say which one: {base}/{next(iter(configs))}",
        )
    splits = configs[config]
    if not split and (len(splits) > 1 or not splits.keys().isdisjoint(HELD_OUT)):
        raise BessemerError(
            f"{base} has the {'splits' if len(splits) > 1 else 'split'} {', '.join(splits)}",
            where=where or address,
            fix=f"say which one: {base}/{rest + '/' if rest else ''}{next(iter(splits))}",
        )
    return splits[split or next(iter(splits))]


def _split_address(rest: str, configs: Configs, default: str) -> tuple[str | None, str]:
    """(configuration, split) that `rest` means; configuration "" = must be said, None = `rest` is neither."""
    if not rest:
        return (default, "") if configs else (None, "")
    if rest in configs:
        return rest, ""
    config, _, split = rest.rpartition("/")
    if (config or default) in configs and split in configs[config or default]:
        return config or default, split
    return None, ""


def _configs(data: list[str], meta: dict[str, Any]) -> tuple[Configs, str]:
    """What there is, and which configuration is meant where none is named; "" where it must be named."""
    found: Configs = {}
    default = "default"
    for entry in _entries(meta):
        name = str(entry.get("config_name") or "default")
        splits = _declared(data, entry.get("data_files"), str(entry.get("data_dir") or ""))
        if splits:
            found[name] = splits
            default = name if entry.get("default") else default
    if not found and (guessed := _by_name(data)):
        found = {"default": guessed}
    return found, default if default in found else next(iter(found)) if len(found) == 1 else ""


def _declared(data: list[str], files: Any, folder: str) -> dict[str, list[str]]:
    """`data_files:` is a pattern, a list of patterns, or a list of {split, path}; `data_dir:` is a folder."""
    inside = [n for n in data if not folder or n.startswith(f"{folder.strip('/')}/")]
    if files is None:
        return _by_name(inside)
    entries = cast(list[Any], files if isinstance(files, list) else [files])
    splits: dict[str, list[str]] = {}
    for entry in entries:
        split, path = (entry.get("split", "train"), entry.get("path")) if isinstance(entry, dict) else ("train", entry)
        patterns = [str(p) for p in (path if isinstance(path, list) else [path])]
        names = [n for n in inside for p in patterns if _fits(n, p)]
        splits.setdefault(str(split), []).extend(dict.fromkeys(names))
    return {split: names for split, names in splits.items() if names}


def _by_name(data: list[str]) -> dict[str, list[str]]:
    splits: dict[str, list[str]] = {}
    for name in data:
        splits.setdefault(_split_of(name), []).append(name)
    if list(splits) == [""]:
        return {"train": splits[""]}
    found = {s: splits[s] for s in SPLITS if s in splits}
    return found | ({UNNAMED: splits[""]} if "" in splits else {})


def _split_of(name: str) -> str:
    """What the file's own name says, else the nearest folder that says something. Where it says two, the one that is
    held out: test data must not slip into training."""
    for part in reversed(name.lower().split("/")):
        words = set(re.split(r"[^a-z]+", part))
        if found := [s for s, known in SPLITS.items() if words & set(known)]:
            return next((s for s in found if s in HELD_OUT), found[0])
    return ""


def _fits(name: str, pattern: str) -> bool:
    """As the hub's patterns do: only `**` reaches into folders below."""
    parts = re.split(r"(\*\*/|\*\*|\*|\?|\[[^\]]+\])", pattern)
    ways = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    text = "".join(
        ways.get(p) or (p.replace("[!", "[^") if p[:1] == "[" and p[-1:] == "]" else re.escape(p)) for p in parts
    )
    try:
        return re.fullmatch(text, name) is not None
    except re.error:  # such as [9-1]
        return name == pattern


def _front_matter(readme: Path | None) -> dict[str, Any]:
    """The YAML between the two `---` lines that a README may begin with; empty when there is none."""
    if readme is None or not readme.is_file():
        return {}
    text = readme.read_text(errors="replace")
    match = re.match(r"---\s*\n(.*?)\n---\s*(\n|$)", text, re.DOTALL)
    try:
        found = yaml.safe_load(match[1]) if match else None
    except (yaml.YAMLError, ValueError, RecursionError):  # a value: such as the 30th of February
        found = None
    return cast(dict[str, Any], found) if isinstance(found, dict) else {}
