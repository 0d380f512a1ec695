"""Checkpoints: whole or not there, verified on load, and enough to continue bit by bit, in a world of any size.

A checkpoint is a folder: for every process a file with its rows of every master weight and optimizer moment
(safetensors), state.json, and manifest.json with the sha256 of the others, written last. Training has no dropout and
the data order is a function of the step, so step, weights, optimizer and the guard's memory are the whole state.
"""

from __future__ import annotations

import contextlib
import errno
import json
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from torch.distributed.tensor import DTensor

from bessemer.errors import BessemerError
from bessemer.files import check_files, digest_files, finish_folder, read_json, write_hashed, write_json
from bessemer.train.optimizers import Optimizers
from bessemer.train.weights import Trainable
from bessemer.train.world import World
from bessemer.units import show_bytes

KEEP = 2
DTYPES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.int64: "I64", torch.uint8: "U8"}
MANIFEST = "manifest.json"
PINNED = "pinned"  # a file of this name in a checkpoint's folder keeps it for ever
ROWS = "rows"  # key of the header: {tensor: [first row, shape of the whole]}
FAILED = ".failed"  # beside the parts of a checkpoint: why a process could not write its own
PEERS_WRITE_S = 600.0  # how long rank 0 waits for the parts of the others


# -- writing --------------------------------------------------------------------------------------------------------


class Writer:
    """Writes checkpoints in a thread while training goes on; at most one at a time.

    What is written are copies made before `save` returns, so the next step cannot change them.
    """

    def __init__(
        self, folder: Path, world: World, *, keep_all: bool = False, say: Callable[[str], None] = lambda _: None
    ) -> None:
        self.folder, self.world, self.keep_all, self.say = folder, world, keep_all, say
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None
        self._failed_before = False

    def save(self, step: int, trainable: Trainable, optimizer: Optimizers, state: dict[str, Any]) -> None:
        """Copy everything and begin to write `folder/step-N`.

        Raises as `settle` does.
        """
        self.settle("this step's is written instead")
        tensors = {name: part.copied() for name, part in _parts(trainable, optimizer)}
        header = {ROWS: json.dumps({n: [p.first, list(p.shape)] for n, p in _parts(trainable, optimizer)})}
        final = self.folder / f"step-{step:07d}"
        tmp = final.with_name(f".tmp-{final.name}")
        if self.world.leads:
            shutil.rmtree(tmp, ignore_errors=True)
            tmp.mkdir()  # not its parents: the run's folder may have been taken away for another run's
        self.world.wait()
        self._thread = threading.Thread(
            target=self._write, args=(tmp, final, tensors, header, {"step": step, **state}), name="checkpoint"
        )
        self._thread.start()

    def settle(self, instead: str) -> None:
        """Until nothing is being written.

        One failure is said and passed over: the disk may have room again, and the weights in memory are good. Raises
        what the writing raised when the one before it had failed, too.
        """
        if self._thread is None:
            return
        try:
            self.wait()
            self._failed_before = False
        except BessemerError as error:
            if self._failed_before:
                raise
            self._failed_before = True
            self.say(f"{error.what}; {instead}")

    def join(self) -> None:
        """Until nothing is being written."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def wait(self) -> None:
        """Until nothing is being written. Raises what the writing raised."""
        self.join()
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    def _write(
        self, tmp: Path, final: Path, tensors: dict[str, Tensor], header: dict[str, str], state: dict[str, Any]
    ) -> None:
        part = f"part-{self.world.rank:05d}-of-{self.world.size:05d}.safetensors"
        try:
            manifest = {part: write_hashed(tmp / part, _safetensors(tensors, header))}
            if not self.world.leads:
                told = tmp / f".told-{self.world.rank}"
                told.write_text(json.dumps(manifest))
                told.replace(tmp / f".done-{self.world.rank}")  # the last touch: the leader may rename the folder now
                return
            manifest |= self._wait_for_peers(tmp)
            write_json(tmp / "state.json", state)
            write_json(tmp / MANIFEST, manifest | digest_files(tmp, skip=frozenset(manifest)))
            shutil.rmtree(final, ignore_errors=True)
            finish_folder(tmp, final)
            if not self.keep_all:
                purge(self.folder)
        except OSError as error:
            if self.world.leads:
                shutil.rmtree(tmp, ignore_errors=True)
            else:  # the leader must not wait for it
                with contextlib.suppress(OSError):
                    (tmp / FAILED).write_text(error.strerror or str(error))
            need = sum(t.nbytes for t in tensors.values())
            self._failure = BessemerError(
                f"the checkpoint cannot be written ({error.strerror or error}); it needs {show_bytes(need)}",
                where=str(tmp.parent),
                fix="make room or give the folder to this user; the checkpoints before it are intact, and the same "
                "command continues from them",
            )
        except BaseException as error:  # shown by the next wait(), in the training thread
            self._failure = error

    def _wait_for_peers(self, tmp: Path) -> dict[str, Any]:
        """Returns what they say of their parts."""
        peers = [tmp / f".done-{rank}" for rank in range(1, self.world.size)]
        end = time.monotonic() + PEERS_WRITE_S
        while not all(p.exists() for p in peers):
            if (tmp / FAILED).exists():
                raise OSError(errno.EIO, f"another process could not write: {(tmp / FAILED).read_text()}")
            if time.monotonic() > end:
                raise BessemerError(
                    f"not every process wrote its part within {PEERS_WRITE_S:.0f} s",
                    where=str(tmp),
                    fix="all processes need the same BESSEMER_HOME on a shared disk",
                )
            time.sleep(0.02)
        found: dict[str, Any] = {}
        for peer in peers:
            found |= read_json(peer)
            peer.unlink()
        return found


def _safetensors(tensors: dict[str, Tensor], metadata: dict[str, str]) -> Iterator[memoryview]:
    """The bytes of a safetensors file: length of the header, header, tensors (the format's own documentation)."""
    header: dict[str, Any] = {"__metadata__": metadata}
    at = 0
    for name, tensor in tensors.items():
        header[name] = {
            "dtype": DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [at, at + tensor.nbytes],
        }
        at += tensor.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    yield memoryview(len(text).to_bytes(8, "little") + text)
    yield from (tensor.reshape(-1).view(torch.uint8).numpy().data for tensor in tensors.values())


def clear(folder: Path) -> None:
    """Remove what a killed process left half-written."""
    for left in folder.glob(".tmp-step-*"):
        shutil.rmtree(left, ignore_errors=True)


def remove_newer(folder: Path, path: Path | None) -> None:
    """Remove the checkpoints behind the one that is gone on from (all, without one); pinned ones stay."""
    for newer in folder.glob("step-*"):
        if (path is None or newer.name > path.name) and not (newer / PINNED).exists():
            shutil.rmtree(newer, ignore_errors=True)


def purge(folder: Path) -> None:
    """Remove all but the newest KEEP, the newest one to go back to, the one that forgot least, and pinned ones."""
    found = complete(folder)
    states = {p: _state(p) for p in found}
    measured: dict[Path, Any] = {p: state.get("forgotten") for p, state in states.items()}
    best = min((p for p in found if measured[p] is not None), key=lambda p: measured[p], default=None)
    to_go_back_to = next((p for p in found if states[p].get("due", True)), None)
    for old in found[KEEP:]:
        if old not in {best, to_go_back_to} and not (old / PINNED).exists():
            shutil.rmtree(old, ignore_errors=True)


def _state(path: Path) -> dict[str, Any]:
    """Of a damaged checkpoint, that nobody goes back to it: it must not end a healthy run."""
    try:
        return read_json(path / "state.json")
    except BessemerError:
        return {"due": False}


# -- reading --------------------------------------------------------------------------------------------------------


def complete(folder: Path) -> list[Path]:
    """Checkpoints that have a manifest, newest first. Half-written ones are not among them."""
    found = [p for p in folder.glob("step-*") if re.fullmatch(r"step-\d+", p.name) and (p / MANIFEST).is_file()]
    return sorted(found, reverse=True)


def newest_good(folder: Path, plan: str = "", *, due: bool = False) -> tuple[Path | None, list[str]]:
    """The newest checkpoint whose bytes match its manifest, and why newer ones were passed over.

    plan: identity of the plan that it must be of. due: only those that an undisturbed training writes too, not those
    of a stop.
    """
    refused: list[str] = []
    for path in complete(folder):
        try:
            manifest = read_json(path / MANIFEST)
            if "state.json" not in manifest:
                raise BessemerError("the manifest does not name state.json", where=str(path / MANIFEST))
            check_files(path, manifest, fix="")
            state = read_json(path / "state.json")
            if plan and state.get("plan", plan) != plan:  # of a process that outlived its run and a restart
                raise BessemerError("it is of another plan", where=str(path))
            if due and not state.get("due", True):
                continue
            return path, refused
        except (BessemerError, OSError) as error:
            refused.append(str(error).strip())
    return None, refused


def restore(path: Path, trainable: Trainable, optimizer: Optimizers) -> dict[str, Any]:
    """Put a verified checkpoint into weights and optimizer; returns its state.json.

    It may have been written by another number of processes: every process reads the rows that are its own.
    """
    with _Parts(path) as saved, torch.no_grad():
        if saved.masters() != trainable.masters.keys():
            raise BessemerError("it holds other parameters than this stage trains", where=str(path), fix="--restart")
        for name, master in trainable.masters.items():
            part = _part(master)
            part.local.copy_(saved.rows(name, part))
            optimizer.set_state(master, {key: saved.moment(name, key, master, part) for key in saved.moments(name)})
    trainable.round()
    return read_json(path / "state.json")


def restore_moments(path: Path, trainable: Trainable, optimizer: Optimizers) -> None:
    """Put the optimizer's state of another training of the same weights into a new optimizer, step counts included.

    Raises BessemerError when its bytes changed or it belongs to other weights.
    """
    check_files(path, read_json(path / MANIFEST), fix="restore it from a copy, or remove the folder to go on without")
    with _Parts(path) as saved:
        if missing := trainable.masters.keys() - saved.masters():
            raise BessemerError(
                f"the optimizer's state knows nothing of {len(missing)} weights, first {min(missing)}", where=str(path)
            )
        for name, master in trainable.masters.items():
            part = _part(master)
            optimizer.set_state(master, {key: saved.moment(name, key, master, part) for key in saved.moments(name)})


def masters_of(path: Path) -> dict[str, Tensor]:
    """The whole fp32 weights in a checkpoint, by name."""
    with _Parts(path) as saved:
        return {name: saved.whole(name) for name in sorted(saved.masters())}


# -- rows of tensors ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Part:
    """What this process has of a tensor: rows from `first` on of a whole of some shape."""

    local: Tensor
    first: int
    shape: tuple[int, ...]

    def copied(self) -> Tensor:
        return self.local.detach().to("cpu", copy=True).contiguous()


def _part(tensor: Tensor) -> _Part:
    if not isinstance(tensor, DTensor):
        return _Part(tensor, 0, tuple(tensor.shape))
    mesh = tensor.device_mesh
    rows_each = -(-tensor.shape[0] // mesh.size())  # FSDP2 shards by rows as torch.chunk does
    first = min(mesh.get_local_rank() * rows_each, tensor.shape[0])
    local = tensor.to_local()
    assert local.shape[0] == min(rows_each, tensor.shape[0] - first)
    return _Part(local, first, tuple(tensor.shape))


def _like(master: Tensor, local: Tensor) -> Tensor:
    """A tensor of these rows, spread as the master is."""
    if not isinstance(master, DTensor):
        return local
    return DTensor.from_local(
        local, master.device_mesh, master.placements, shape=master.shape, stride=master.stride(), run_check=False
    )


def _parts(trainable: Trainable, optimizer: Optimizers) -> Iterator[tuple[str, _Part]]:
    """(name, rows) of every master and moment; a moment is called MASTER/MOMENT."""
    for name, master in trainable.masters.items():
        yield name, _part(master)
        for key, value in optimizer.get_state(master).items():
            yield f"{name}/{key}", _part(torch.as_tensor(value))


class _Parts:
    """The files of a checkpoint, read as whole tensors by rows."""

    def __init__(self, path: Path) -> None:
        self._files = [safe_open(p, framework="pt") for p in sorted(path.glob("part-*.safetensors"))]
        self._where: dict[str, list[tuple[int, int]]] = {}  # tensor -> (file, first row), ascending
        self._shapes: dict[str, list[int]] = {}
        for i, file in enumerate(self._files):
            for name, (first, shape) in json.loads(file.metadata()[ROWS]).items():
                self._where.setdefault(name, []).append((i, first))
                self._shapes[name] = shape

    def __enter__(self) -> _Parts:
        return self

    def __exit__(self, *_: object) -> None:
        self._files.clear()

    def masters(self) -> set[str]:
        return {name for name in self._where if "/" not in name}

    def moments(self, master: str) -> set[str]:
        return {n.rpartition("/")[2] for n in self._where if n.startswith(f"{master}/")}

    def moment(self, master_name: str, key: str, master: Tensor, part: _Part) -> Tensor:
        """A moment of a master: shaped and spread like it, or a number (the count of steps)."""
        name = f"{master_name}/{key}"
        if not self._shapes[name]:
            return self._files[self._where[name][0][0]].get_tensor(name).to(part.local.device)
        return _like(master, self.rows(name, part).to(part.local.device))

    def rows(self, name: str, wanted: _Part) -> Tensor:
        """The rows that a process wants. Raises BessemerError when the shape differs."""
        if tuple(self._shapes[name]) != wanted.shape:
            raise BessemerError(
                f"{name} has shape {self._shapes[name]} there and {list(wanted.shape)} here", where="checkpoint"
            )
        end = wanted.first + wanted.local.shape[0]
        pieces = list(self._pieces(name, wanted.first, end))
        return torch.cat(pieces) if pieces else torch.empty_like(wanted.local, device="cpu")

    def whole(self, name: str) -> Tensor:
        return torch.cat(list(self._pieces(name, 0, self._shapes[name][0])))

    def _pieces(self, name: str, first: int, end: int) -> Iterable[Tensor]:
        for i, start in self._where[name]:
            rows = self._files[i].get_slice(name)
            stop = start + rows.get_shape()[0]
            if start < end and first < stop:
                yield rows[max(first, start) - start : min(end, stop) - start]
