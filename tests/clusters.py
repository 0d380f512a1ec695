# ruff: noqa: S607 - the cluster's own commands
"""A real Slurm on this machine, where its daemons are installed and the tests run as root."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Generator
from pathlib import Path

import pytest

CONF = """
ClusterName=test
SlurmctldHost={host}
SlurmctldPort={port}
SlurmdPort={port1}
AuthType=auth/munge
AuthInfo=cred_expire=5
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


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Generator[None]:
    """A cluster of one node, for these tests only. A requeued job starts again after seconds (cred_expire)."""
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
