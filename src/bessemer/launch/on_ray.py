"""`python -m bessemer.launch.on_ray ADDRESS WORKERS CPUS GPUS RUN STAGE`: train one stage on a Ray cluster.

Ray Train places the workers and sets their RANK and WORLD_SIZE; the rest is as anywhere: the workers read the run from
BESSEMER_HOME, a folder that all machines share, and what they leave there says how they ended. Ray restarts nothing:
this process fails and its supervisor starts a new group. When it dies, Ray ends its workers.
"""

# Ray is an extra and hardly typed.
# pyright: reportMissingImports=false, reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from bessemer.files import home

SECRET = ("_TOKEN", "_KEY", "_SECRET", "_PASSWORD")  # Ray shows the environment to whoever may see its dashboard
PASSED_ON = ("BESSEMER_", "HF_", "OMP_NUM_THREADS", "TOKENIZERS_PARALLELISM", "TRANSFORMERS_", "TQDM_")


def passed_on() -> dict[str, str]:
    """The part of the environment that decides how workers compute. They fetch nothing: the plan's data and base lie
    in the shared BESSEMER_HOME, so no secret goes with it."""
    named = {k: v for k, v in os.environ.items() if k.startswith(PASSED_ON) and not k.endswith(SECRET)}
    return named | {"BESSEMER_HOME": str(home())}


def work_on_ray(config: dict[str, Any]) -> None:
    """What each of Ray's workers does."""
    from bessemer.errors import StoppedByUserError
    from bessemer.launch.here import quiet_libraries
    from bessemer.launch.worker import work

    quiet_libraries()
    os.chdir(config["folder"])  # addresses in a recipe may be relative to where it was started
    try:
        work(config["run"], config["stage"])
    except StoppedByUserError:
        return  # stopped.json says so


def main(address: str, workers: int, cpus: int, gpus: bool, run: str, stage: int) -> None:
    """Join the cluster at `address` or RAY_ADDRESS, or start one here; train, leave. Raises when a worker failed."""
    os.environ.setdefault("RAY_raylet_start_wait_time_s", "180")  # a busy machine takes its time
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    starts_one = not (address or "RAY_ADDRESS" in os.environ)
    if starts_one or "RAY_AUTH_TOKEN" in os.environ or (Path.home() / ".ray" / "auth_token").exists():
        os.environ.setdefault("RAY_AUTH_MODE", "token")  # without it a client sends no token and waits in vain
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    ray.init(address=address or None, runtime_env={"env_vars": passed_on()})
    trainer = TorchTrainer(
        work_on_ray,
        train_loop_config={"run": run, "stage": stage, "folder": str(Path.cwd())},
        scaling_config=ScalingConfig(
            num_workers=workers, use_gpu=gpus, resources_per_worker={"CPU": cpus} | ({"GPU": 1} if gpus else {})
        ),
        run_config=RunConfig(
            name=run, storage_path=str(home() / "cache" / "ray"), failure_config=FailureConfig(max_failures=0)
        ),
    )
    trainer.fit()
    ray.shutdown()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "1", sys.argv[5], int(sys.argv[6]))
