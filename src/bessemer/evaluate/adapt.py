"""What was written for other tools: tasks of lm-evaluation-harness and logs of Inspect."""

from __future__ import annotations

from bessemer.evaluate.inspect_logs import InspectLog, open_inspect_log, read_inspect_log
from bessemer.evaluate.lm_eval_tasks import load_lm_eval
from bessemer.evaluate.tasks import LoadedTask, load_task

__all__ = ["InspectLog", "load_any", "load_lm_eval", "open_inspect_log", "read_inspect_log"]
LM_EVAL = "lm-eval:"


def load_any(argument: str) -> LoadedTask:
    """A task file of ours, or `lm-eval:PATH.yaml`. Raises what `load_task` and `load_lm_eval` raise."""
    if argument.startswith(LM_EVAL):
        return load_lm_eval(argument.removeprefix(LM_EVAL))
    return load_task(argument)
