from __future__ import annotations

import errno
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from bessemer.errors import BessemerError
from bessemer.families.fetch import resolve
from bessemer.recipe.schema import Stage
from bessemer.train import checkpoint
from bessemer.train.optimizers import Optimizers, make_optimizer
from bessemer.train.weights import Trainable, Trained, prepare
from bessemer.train.world import World

STAGE = Stage.model_validate({"objective": "cpt", "mixture": {"a": 1}})


@pytest.fixture
def trained(tiny_model: Path) -> tuple[Trainable, Optimizers]:
    trainable = prepare(resolve(str(tiny_model)), None)
    optimizer = make_optimizer(trainable, STAGE)
    for master in trainable.masters.values():
        master.grad = torch.ones_like(master)
    optimizer.step(0.1)
    return trainable, optimizer


def save(folder: Path, step: int, trainable: Trainable, optimizer: Optimizers, state: dict[str, Any]) -> Path:
    writer = checkpoint.Writer(folder, World())
    writer.save(step, trainable, optimizer, state)
    writer.wait()
    return checkpoint.complete(folder)[0]


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_keeps_two_and_restores_the_newest(
    trained: tuple[Trainable, Optimizers], tmp_path: Path, tiny_model: Path
) -> None:
    trainable, optimizer = trained
    for step in (3, 6, 9):
        save(tmp_path, step, trainable, optimizer, {"metrics_offset": step})
    assert [p.name for p in checkpoint.complete(tmp_path)] == ["step-0000009", "step-0000006"]
    fresh = prepare(resolve(str(tiny_model)), None)
    restored = make_optimizer(fresh, STAGE)
    path, refused = checkpoint.newest_good(tmp_path)
    assert path is not None and not refused
    assert checkpoint.restore(path, fresh, restored) == {"step": 9, "metrics_offset": 9}
    for name, master in trainable.masters.items():
        assert torch.equal(master, fresh.masters[name])
        old, new = optimizer.get_state(master), restored.get_state(fresh.masters[name])
        assert all(torch.equal(old[k], new[k]) for k in old)


@pytest.mark.parametrize("name", ["part-00000-of-00001.safetensors", "state.json"])
def test_one_changed_byte_is_found_and_the_previous_one_taken(
    trained: tuple[Trainable, Optimizers], tmp_path: Path, name: str
) -> None:
    for step in (1, 2):
        save(tmp_path, step, *trained, {})
    flip(tmp_path / "step-0000002" / name)
    path, refused = checkpoint.newest_good(tmp_path)
    assert path is not None and path.name == "step-0000001"
    assert name in refused[0] and "changed" in refused[0]


def test_half_written_ones_are_invisible(trained: tuple[Trainable, Optimizers], tmp_path: Path) -> None:
    save(tmp_path, 1, *trained, {})
    shutil.copytree(tmp_path / "step-0000001", tmp_path / ".tmp-step-0000005")
    shutil.copytree(tmp_path / "step-0000001", tmp_path / "step-0000004")
    (tmp_path / "step-0000004" / "manifest.json").unlink()
    path, refused = checkpoint.newest_good(tmp_path)
    assert path is not None and path.name == "step-0000001" and not refused
    (path / "part-00000-of-00001.safetensors").unlink()
    assert checkpoint.newest_good(tmp_path)[0] is None


def test_what_a_killed_process_left_half_written_goes(trained: tuple[Trainable, Optimizers], tmp_path: Path) -> None:
    whole = save(tmp_path, 1, *trained, {})
    shutil.copytree(whole, tmp_path / ".tmp-step-0000005")
    checkpoint.clear(tmp_path)
    assert list(tmp_path.iterdir()) == [whole]


def test_a_checkpoint_of_other_parameters_is_refused(
    trained: tuple[Trainable, Optimizers], tmp_path: Path, tiny_model: Path
) -> None:
    path = save(tmp_path, 1, *trained, {})
    frozen = prepare(resolve(str(tiny_model)), None, Trained(0.5))
    with pytest.raises(BessemerError, match="other parameters"):
        checkpoint.restore(path, frozen, make_optimizer(frozen, STAGE))


def test_what_is_saved_is_what_was_there_when_saving_began(
    trained: tuple[Trainable, Optimizers], tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next step changes every weight while the file is still being written."""
    trainable, optimizer = trained
    before = {n: m.detach().clone() for n, m in trainable.masters.items()}
    begin, real = threading.Event(), checkpoint.write_hashed

    def slow(*args: Any) -> Any:
        assert begin.wait(20)
        return real(*args)

    monkeypatch.setattr(checkpoint, "write_hashed", slow)
    writer = checkpoint.Writer(tmp_path, World())
    writer.save(1, trainable, optimizer, {})
    for master in trainable.masters.values():
        master.grad = torch.ones_like(master)
    optimizer.step(0.5)
    begin.set()
    writer.wait()
    fresh = prepare(resolve(str(tiny_model)), None)
    checkpoint.restore(tmp_path / "step-0000001", fresh, make_optimizer(fresh, STAGE))
    assert all(torch.equal(before[n], m) for n, m in fresh.masters.items())
    assert not torch.equal(trainable.masters["model.norm.weight"], before["model.norm.weight"])


def test_the_best_and_the_pinned_stay(trained: tuple[Trainable, Optimizers], tmp_path: Path) -> None:
    for step, forgotten in enumerate((0.02, 0.001, None, 0.03, 0.05, None), start=1):
        save(tmp_path, step, *trained, {"forgotten": forgotten})
        if step == 3:
            (tmp_path / "step-0000003" / checkpoint.PINNED).touch()
    assert [int(p.name[-1]) for p in checkpoint.complete(tmp_path)] == [6, 5, 3, 2]
    path, refused = checkpoint.newest_good(tmp_path)
    assert path is not None and path.name == "step-0000006" and not refused


def test_a_full_disk_is_said_with_the_bytes_and_harms_nothing(
    trained: tuple[Trainable, Optimizers], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, 1, *trained, {})

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "write_hashed", full)
    with pytest.raises(BessemerError, match=r"No space left on device.*needs \d"):
        save(tmp_path, 2, *trained, {})
    assert [p.name for p in tmp_path.iterdir()] == ["step-0000001"]
    assert checkpoint.newest_good(tmp_path)[0] is not None


def test_one_failure_is_passed_over_and_two_in_a_row_are_not(
    trained: tuple[Trainable, Optimizers], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said, full, real = list[str](), {2, 4, 5}, checkpoint.write_hashed

    def write(path: Path, content: Any) -> Any:
        if int(path.parent.name[-1]) in full:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(path, content)

    monkeypatch.setattr(checkpoint, "write_hashed", write)
    writer = checkpoint.Writer(tmp_path, World(), say=said.append)
    for step in (1, 2, 3, 4, 5):
        writer.save(step, *trained, {})
    assert len(said) == 2 and all("cannot be written" in text for text in said)
    with pytest.raises(BessemerError, match="No space left"):
        writer.save(6, *trained, {})
    assert [p.name for p in checkpoint.complete(tmp_path)] == ["step-0000003", "step-0000001"]


def test_checkpoints_of_stops_are_not_gone_back_to_and_do_not_push_out_others(
    trained: tuple[Trainable, Optimizers], tmp_path: Path
) -> None:
    for step, due in ((1, True), (2, True), (3, False), (4, False), (5, False)):
        save(tmp_path, step, *trained, {"due": due})
    assert [int(p.name[-1]) for p in checkpoint.complete(tmp_path)] == [5, 4, 2]
    newest, back = (checkpoint.newest_good(tmp_path, due=due)[0] for due in (False, True))
    assert newest is not None and back is not None and (newest.name[-1], back.name[-1]) == ("5", "2")


@pytest.mark.parametrize("damage", ["truncate", "delete", "link", "swap", "foreign manifest"])
def test_every_kind_of_damage_is_found(trained: tuple[Trainable, Optimizers], tmp_path: Path, damage: str) -> None:
    for step in (1, 2):
        save(tmp_path, step, *trained, {"step of": step})
    folder, part = tmp_path / "step-0000002", tmp_path / "step-0000002" / "part-00000-of-00001.safetensors"
    if damage == "truncate":
        part.write_bytes(part.read_bytes()[:-100])
    elif damage == "delete":
        part.unlink()
    elif damage == "link":
        other = tmp_path / "elsewhere"
        part.rename(other)
        part.symlink_to(other)
    elif damage == "swap":
        shutil.copy(tmp_path / "step-0000001" / "state.json", folder / "state.json")
    else:
        (folder / "manifest.json").write_text("{}")
    path, refused = checkpoint.newest_good(tmp_path)
    assert path is not None and path.name == "step-0000001" and len(refused) == 1 and "step-0000002" in refused[0]


def test_parts_are_safetensors_that_the_library_reads(trained: tuple[Trainable, Optimizers], tmp_path: Path) -> None:
    trainable, _ = trained
    save(tmp_path, 1, *trained, {})
    (part,) = (tmp_path / "step-0000001").glob("part-*")
    read = load_file(part)
    assert all(torch.equal(read[name], master) for name, master in trainable.masters.items())
    assert {str(t.dtype) for t in read.values()} == {"torch.float32"}


def test_a_damaged_old_one_does_not_end_a_healthy_run(trained: tuple[Trainable, Optimizers], tmp_path: Path) -> None:
    said: list[str] = []
    save(tmp_path, 1, *trained, {"due": True})
    (tmp_path / "step-0000001" / "state.json").write_text('{"step": 1, "du')
    writer = checkpoint.Writer(tmp_path, World(), say=said.append)
    for step in (2, 3, 4):
        writer.save(step, *trained, {"due": True})
    writer.wait()
    assert not said and [int(p.name[-1]) for p in checkpoint.complete(tmp_path)] == [4, 3]


def test_what_is_newer_goes_but_for_what_is_pinned(tmp_path: Path) -> None:
    for step in (4, 6, 8, 12):
        (tmp_path / f"step-{step:07d}").mkdir()
    (tmp_path / "step-0000008" / checkpoint.PINNED).touch()
    checkpoint.remove_newer(tmp_path, tmp_path / "step-0000004")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-0000004", "step-0000008"]
    checkpoint.remove_newer(tmp_path, None)
    assert [p.name for p in tmp_path.iterdir()] == ["step-0000008"]


def test_a_checkpoint_of_another_plan_is_passed_over(trained: tuple[Trainable, Optimizers], tmp_path: Path) -> None:
    """Of a process that outlived its supervisor and a --restart."""
    mine = save(tmp_path, 4, *trained, {"plan": "mine"})
    save(tmp_path, 8, *trained, {"plan": "another"})
    path, refused = checkpoint.newest_good(tmp_path, "mine")
    assert path == mine and "another plan" in refused[0]
    assert checkpoint.newest_good(tmp_path)[0] != mine
    shutil.rmtree(tmp_path)
    with pytest.raises(FileNotFoundError):  # the run's folder was taken away: it is not made anew
        save(tmp_path, 12, *trained, {})


def test_a_process_that_cannot_write_is_not_waited_for(
    trained: tuple[Trainable, Optimizers], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(World, "wait", lambda _: None)
    monkeypatch.setattr(checkpoint, "PEERS_WRITE_S", 20.0)
    writers = [checkpoint.Writer(tmp_path, World(rank, 2)) for rank in (0, 1)]
    real = checkpoint.write_hashed

    def full(path: Path, pieces: Any) -> Any:
        if "part-00001" in path.name:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(path, pieces)

    monkeypatch.setattr(checkpoint, "write_hashed", full)
    began = time.monotonic()
    for writer in writers:
        writer.save(4, *trained, {})
    with pytest.raises(BessemerError, match="another process could not write: No space left"):
        writers[0].wait()
    with pytest.raises(BessemerError, match="cannot be written .No space left"):
        writers[1].wait()
    assert time.monotonic() - began < 15 and not checkpoint.complete(tmp_path)
