"""Manifests have the fields that KubeRay's RayJob (v1) and SkyPilot's task require, and no others that we made up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from bessemer.launch import start as start_module
from bessemer.launch.manifest import make_manifest
from bessemer.launch.place import Place
from bessemer.recipe.load import load_recipe
from bessemer.track.screen import Screen
from tests.launch.runs import bessemer
from tests.story import write_story


def closed(required: dict[str, Any], **optional: Any) -> dict[str, Any]:
    properties = {**required, **optional}
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


TEXT, COUNT = {"type": "string", "minLength": 1}, {"type": "integer", "minimum": 0}
TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}
POD = closed(
    {
        "spec": closed(
            {
                "containers": {
                    "type": "array",
                    "minItems": 1,
                    "items": closed(
                        {"name": TEXT, "image": TEXT},
                        resources=closed({"requests": TEXTS, "limits": TEXTS}),
                        env={"type": "array", "items": closed({"name": TEXT, "value": TEXT})},
                        volumeMounts={"type": "array", "items": closed({"name": TEXT, "mountPath": TEXT})},
                    ),
                }
            },
            volumes={
                "type": "array",
                "items": closed({"name": TEXT, "persistentVolumeClaim": closed({"claimName": TEXT})}),
            },
        )
    }
)
WORKERS = closed(
    {"groupName": TEXT, "template": POD, "rayStartParams": TEXTS},
    **dict.fromkeys(("replicas", "minReplicas", "maxReplicas"), COUNT),
)
RAY_JOB = closed(
    {
        "apiVersion": {"const": "ray.io/v1"},
        "kind": {"const": "RayJob"},
        "metadata": closed({"name": {"type": "string", "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"}}, labels=TEXTS),
        "spec": closed(
            {
                "entrypoint": TEXT,
                "rayClusterSpec": closed(
                    {"headGroupSpec": closed({"template": POD, "rayStartParams": TEXTS})},
                    workerGroupSpecs={"type": "array", "items": WORKERS},
                ),
            },
            shutdownAfterJobFinishes={"type": "boolean"},
            suspend={"type": "boolean"},
        ),
    }
)
SKY_TASK = closed(
    {"run": TEXT},
    name=TEXT,
    envs=TEXTS,
    volumes=TEXTS,
    resources=closed({}, image_id=TEXT, cpus=TEXT, memory=TEXT, accelerators=TEXT),
)


@pytest.mark.parametrize("gpus", [False, True])
@pytest.mark.parametrize(("kind", "schema"), [("k8s", RAY_JOB), ("sky", SKY_TASK)])
def test_manifests_have_the_documented_fields(kind: str, schema: dict[str, Any], gpus: bool) -> None:
    made = make_manifest("story", Place(kind, "team-a", 2, True, 4, gpus))
    jsonschema.validate(made, schema)
    assert ("nvidia.com/gpu" in str(made) or "H100:2" in str(made)) == gpus


@pytest.mark.parametrize("kind", ["k8s", "sky"])
def test_settings_of_the_run_travel(
    kind: str, tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BESSEMER_DTYPE", "bfloat16")
    monkeypatch.setenv("BESSEMER_TOKEN", "a secret of this machine")
    monkeypatch.setenv("BESSEMER_TRACK", "wandb")  # put back afterwards
    monkeypatch.setattr(start_module, "check_trackers", lambda _: None)
    made: list[str] = []
    monkeypatch.setattr(
        start_module, "write_manifest", lambda *_, **__: made.append(str(make_manifest("story", place)))
    )
    place, recipe = Place(kind, "team-a"), load_recipe(write_story(tmp_path, tiny_model))
    start_module.start(recipe, place, Screen(quiet=True), lambda: False, manifest=tmp_path / "x", track=["mlflow"])
    assert "BESSEMER_HOME" in made[0] and "bfloat16" in made[0] and "mlflow" in made[0] and "secret" not in made[0]


def test_it_is_written_and_nothing_is_applied(tmp_path: Path, recipe: Path) -> None:
    file = tmp_path / "job.yaml"
    asked = ("--on", "k8s:team-a", "--workers", "2", "--manifest", str(file))
    done = bessemer(tmp_path, "run", str(recipe), *asked)
    assert done.returncode == 0, done.stderr
    for name in ("own.jsonl", "own-test.jsonl", "model"):  # what is not in the volume is said
        assert name in done.stderr.partition("those machines must have ")[2]
    made = yaml.safe_load(file.read_text())
    assert made["spec"]["entrypoint"] == "bessemer runs resume story --on ray --workers 2 --cpus 1"
    assert made["metadata"]["labels"] == {"kueue.x-k8s.io/queue-name": "team-a"}
    assert (tmp_path / "runs/story/plan.lock.json").exists()
    command = ("run", str(recipe), "--on", "k8s:team-a", "--manifest")
    again = bessemer(tmp_path, *command, str(file))
    assert again.returncode == 4 and "the file exists" in again.stderr
    told = bessemer(tmp_path, *command, str(tmp_path / "other.yaml"), "--json")
    assert json.loads(told.stdout) == {
        "name": "story", "release": None, "job": None, "manifest": str(tmp_path / "other.yaml")
    }  # fmt: skip
    for options in (["--on", "sky"], ["--on", "local", "--manifest", str(file)]):
        refused = bessemer(tmp_path, "run", str(recipe), *options)
        assert refused.returncode == 4 and "a manifest goes with k8s and sky" in refused.stderr
