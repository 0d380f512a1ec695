# ruff: noqa: S607 - the cluster's own commands
"""The same recipe on a real Slurm and a real Ray of this machine makes the same bytes as here."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path

import pytest

from bessemer.data.curate import executors
from bessemer.data.curate.prepare import prepare
from bessemer.errors import BessemerError
from bessemer.track.screen import Screen
from tests.data.curate.test_prepare import contents, data, make, recipe, small_tasks, write_rows  # noqa: F401

pytestmark = pytest.mark.full
CONF = """
ClusterName=test
SlurmctldHost={host}
SlurmctldPort={port}
SlurmdPort={port1}
AuthType=auth/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmUser=root
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
ReturnToService=2
NodeName={host} CPUs={cpus} RealMemory=6000 State=UNKNOWN
PartitionName=small Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Generator[None]:
    """A cluster of one node, for these tests only."""
    missing = [
        c
        for c in ("munged", "slurmctld", "slurmd", "sbatch")
        if not shutil.which(c, path=os.environ["PATH"] + ":/usr/sbin")
    ]
    if missing or os.geteuid() != 0:
        pytest.skip(f"needs root and slurm-wlm, munge (missing: {missing})")
    folder = tmp_path_factory.mktemp("slurm")
    for name in ("state", "spool"):
        (folder / name).mkdir()
    host = socket.gethostname().split(".")[0]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    conf = folder / "slurm.conf"
    conf.write_text(CONF.format(host=host, folder=folder, port=port, port1=port + 1, cpus=os.cpu_count()))
    os.environ["SLURM_CONF"] = str(conf)
    munge_runs = subprocess.run(["munge", "-n"], capture_output=True, check=False).returncode == 0
    started: list[subprocess.Popen[bytes]] = []
    if not munge_runs:
        Path("/run/munge").mkdir(exist_ok=True)
        shutil.chown("/run/munge", "munge")
        started.append(subprocess.Popen(["runuser", "-u", "munge", "--", "/usr/sbin/munged", "--foreground"]))
        time.sleep(1)
    started.append(
        subprocess.Popen(["/usr/sbin/slurmctld", "-D"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    )
    started.append(subprocess.Popen(["/usr/sbin/slurmd", "-D"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
    try:
        for _ in range(60):
            state = subprocess.run(["sinfo", "-h", "-o", "%T"], capture_output=True, text=True, check=False).stdout
            if "idle" in state:
                break
            time.sleep(0.5)
        else:
            pytest.fail(f"Slurm did not start: {state} {(folder / 'slurmctld.log').read_text()[-2000:]}")
        yield
    finally:
        for process in reversed(started):
            process.terminate()
            process.wait()
        os.environ.pop("SLURM_CONF")


@pytest.fixture
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a cluster's machines have anyway: the same package."""
    root = Path(__file__).parents[3]
    monkeypatch.setenv("PYTHONPATH", f"{root / 'src'}:{root}")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def test_slurm(slurm: None, data: Path, importable: None, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    here = make(recipe(data))
    monkeypatch.setenv("BESSEMER_HOME", str(data / "home-slurm"))
    there = prepare(recipe(data), Screen(quiet=True), on="slurm:small", workers=2)
    assert contents(there) == contents(here)
    assert executors._default_partition() == "small"


def test_slurm_refuses(slurm: None, data: Path, importable: None) -> None:  # noqa: F811
    with pytest.raises(BessemerError, match="Slurm refused the job"):
        prepare(recipe(data), Screen(quiet=True), on="slurm:nowhere")


def test_a_mistake_on_slurm_is_told_as_it_is_here(slurm: None, data: Path, importable: None) -> None:  # noqa: F811
    write_rows(data / "posts" / "c.jsonl", [{"nothing": 1}])
    with pytest.raises(BessemerError, match=r"c\.jsonl:1: no text column"):
        prepare(recipe(data), Screen(quiet=True), on="slurm")


def test_ray(data: Path, importable: None, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_raylet_start_wait_time_s", "180")
    here = make(recipe(data))
    monkeypatch.setenv("BESSEMER_HOME", str(data / "home-ray"))
    there = prepare(recipe(data), Screen(quiet=True), on="ray", workers=2)
    assert contents(there) == contents(here)
    write_rows(data / "posts" / "c.jsonl", [{"nothing": 1}])
    with pytest.raises(BessemerError, match=r"c\.jsonl:1: no text column"):
        prepare(recipe(data), Screen(quiet=True), on="ray")


def test_no_slurm_here(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    with pytest.raises(BessemerError, match="Slurm cannot be asked"):
        prepare(recipe(data), Screen(quiet=True), on="slurm")
