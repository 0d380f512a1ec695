"""Where runs live and what stands in their folders; light, so that listing them loads no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bessemer.files import home, read_json
from bessemer.track.metrics import read_metrics

PLAN = "plan.lock.json"


def runs_folder() -> Path:
    return home() / "runs"


def list_runs() -> list[dict[str, Any]]:
    """Name, state (planned, started, finished), last step, verdict, release and folder of every run."""
    found: list[dict[str, Any]] = []
    for path in sorted(runs_folder().glob(f"*/{PLAN}")):
        folder = path.parent
        steps = [e for e in read_metrics(folder / "metrics.jsonl") if e["event"] == "step"]
        result: dict[str, Any] = read_json(folder / "result.json") if (folder / "result.json").exists() else {}
        found.append(
            {
                "name": folder.name,
                "state": "finished" if result else "started" if steps else "planned",
                "last": f"{steps[-1]['stage']} step {steps[-1]['step']}" if steps else "",
                "verdict": result.get("verdict", ""),
                "release": result.get("release") or "",
                "folder": str(folder),
            }
        )
    return found
