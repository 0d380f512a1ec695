"""A run as a batch job of Slurm: submitted, asked about, cancelled.

The job tells the whole story on its node. Ahead of its time limit, or when it is preempted, it checkpoints and puts
itself back into the queue. Everything else that a site wants (account, quality of service, memory) goes through
sbatch's own variables: SBATCH_ACCOUNT, SBATCH_QOS, SBATCH_MEM_PER_NODE and so on win over the script.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from pathlib import Path

from bessemer.errors import BessemerError
from bessemer.files import exclusive, home, read_json, write_json, write_text
from bessemer.launch.place import Place
from bessemer.recipe.schema import Recipe
from bessemer.signatures import signing_key
from bessemer.track.runs import IDLE, JOB, STOP, lock_path, runs_folder
from bessemer.track.screen import Screen

MOST_IDLE = 3  # times that a job goes back into the queue without having finished anything
SILENT = "squeue"  # the place of errors that say that Slurm does not answer
GRACE_S = 120  # before the time limit: time for a step, a probe and a checkpoint

SCRIPT = """#!/bin/bash
#SBATCH --job-name=bessemer-{name}
#SBATCH --output={log}
#SBATCH --open-mode=append
#SBATCH --chdir={cwd}
#SBATCH --requeue
#SBATCH --signal=B:TERM@{grace}
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task={cpus}
{options}
export BESSEMER_HOME={home}
export OMP_NUM_THREADS=${{OMP_NUM_THREADS:-{cpus_per_worker}}}
stop={stop} idle={idle}
progress() {{ find {folder} -name done.json -o -name manifest.json -o -path '*/measured*' | sort | cksum; }}
was=$(progress)
# A file instead of a signal: Slurm may signal the command as well, and twice would mean "at once".
trap 'asked=1; touch "$stop"' TERM
{command} &
pid=$!
state() {{
  for wait in 0 1 5; do  # a busy controller
    sleep $wait
    found=$(squeue -h -j $SLURM_JOB_ID -o %T) && [ "$found" ] && break
  done
  echo "$found"
}}
wait $pid; code=$?
while kill -0 $pid 2>/dev/null; do  # it was asked
  touch "$stop"; sleep 1  # again and again: a run that begins takes the requests of before away
done
if [ "$asked" ]; then wait $pid; code=$?; fi
if [ "$asked" ] && [ $code = 130 ] && [ "$(state)" = RUNNING ]; then
  n=$(($(cat "$idle" 2>/dev/null || echo 0) + 1))
  [ "$(progress)" = "$was" ] || n=0
  echo $n > "$idle"
  if [ $n -lt {most_idle} ]; then
    # Cancelled jobs are in another state and stay cancelled.
    scontrol requeue $SLURM_JOB_ID || {{ sleep 5; scontrol requeue $SLURM_JOB_ID; }} ||
      echo "error: Slurm took the job back into no queue; bessemer runs resume {name} --on slurm goes on" >&2
  else
    echo "error: {most_idle} times in a row the time limit came before a checkpoint or a measurement was finished" >&2
    echo "  fix: give it more time: bessemer runs resume {name} --on slurm --time ..." >&2
  fi
fi
exit $code
"""


def submit(recipe: Recipe, place: Place, screen: Screen, *, restart: bool = False) -> str:
    """Plan the run, write `job.sbatch` into its folder and submit it; returns the job's number.

    Raises BessemerError for bad input, when the run is going on or waits in the queue, or when Slurm refuses.
    """
    from bessemer.run import make_plan  # with torch; who only looks at runs comes by here too

    folder = runs_folder() / recipe.name
    signing_key()  # the job inherits it
    # One submits at a time, until its job's number is written; the job itself needs the run's own lock.
    with exclusive(runs_folder() / f".{recipe.name}.submit.lock", f"submitting {recipe.name}"):
        with exclusive(lock_path(recipe.name), f"the run {recipe.name}"):
            if waiting := queued(folder):
                raise BessemerError(
                    f"job {waiting} of this run is in Slurm's queue already",
                    where=str(folder / JOB),
                    fix=f"bessemer runs stop {recipe.name}",
                )
            make_plan(recipe, screen, measured=False, restart=restart, here=False)
            write_text(folder / "job.sbatch", make_script(recipe.name, place))
            (folder / IDLE).unlink(missing_ok=True)  # somebody looked at it
        done = _ask("sbatch", "--parsable", str(folder / "job.sbatch"))
        if done.returncode:
            what = f"Slurm refused the job: {done.stderr.strip()}"
            raise BessemerError(what, where="--on", fix=f"the job is {folder / 'job.sbatch'}")
        job = done.stdout.strip().partition(";")[0]
        write_json(folder / JOB, {"job": job, "kind": "slurm"})
    return job


def make_script(name: str, place: Place) -> str:
    """The batch script of a run."""
    folder, on = runs_folder() / name, f"local:{place.workers}" if place.own else "local"
    command = [sys.executable, "-m", "bessemer.cli.main", "runs", "resume", name, "--on", on]
    options = {"partition": place.target, "time": place.time}
    lines = [f"#SBATCH --{option}={value}" for option, value in options.items() if value]
    lines += [f"#SBATCH --gpus-per-node={place.workers}"] if place.gpus else []
    return SCRIPT.format(
        name=name,
        log=shlex.quote(str(folder / "slurm.log").replace("%", "%%")),  # Slurm fills in %j and the like
        cwd=shlex.quote(str(Path.cwd())),
        grace=GRACE_S,
        cpus=place.cpus * place.workers,
        cpus_per_worker=place.cpus,
        options="\n".join(lines),
        home=shlex.quote(str(home())),
        command=shlex.join(command),
        stop=shlex.quote(str(folder / STOP)),
        folder=shlex.quote(str(folder)),
        idle=shlex.quote(str(folder / IDLE)),
        most_idle=MOST_IDLE,
    )


def queued(folder: Path) -> str:
    """The number of the run's job when Slurm still has it (waiting or running), else nothing."""
    if not (folder / JOB).exists():
        return ""
    job = str(read_json(folder / JOB)["job"])
    return job if job_state(job) in {"PENDING", "CONFIGURING", "RUNNING", "REQUEUED", "SUSPENDED", "COMPLETING"} else ""


def job_state(job: str) -> str:
    """In Slurm's word, e.g. PENDING; nothing when Slurm is not here or has forgotten the job.

    Raises BessemerError when Slurm does not answer: the job may be there.
    """
    for wait_s in (0.0, 1.0, 5.0):  # a busy controller
        time.sleep(wait_s)
        try:
            done = _ask("squeue", "-h", "-j", job, "-o", "%T")
        except FileNotFoundError:
            return ""
        if done.returncode == 0 or "Invalid job id" in done.stderr:
            return done.stdout.strip()
    what = f"Slurm does not say what became of job {job}: {done.stderr.strip()}"
    raise BessemerError(what, where=SILENT, fix="try again when its controller answers")


def cancel(job: str) -> None:
    """Take a job out of the queue."""
    _ask("scancel", job)


def _ask(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False)
