"""Manifests for machines that are asked by others: a KubeRay RayJob in a Kueue queue, a SkyPilot task.

They are written, never applied: names in capitals, memory and volume are the user's to check. The volume is
BESSEMER_HOME for all machines and holds the run's folder, so plan on a machine that has it mounted.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import yaml

import bessemer
from bessemer.errors import BessemerError
from bessemer.files import exclusive, need_new, sha256_text, write_text
from bessemer.launch.place import Place
from bessemer.recipe.schema import FAMILY, Recipe
from bessemer.run import make_plan
from bessemer.signatures import SIGNING_KEY, signing_key
from bessemer.track.runs import lock_path
from bessemer.track.screen import Screen

IMAGE = f"REGISTRY/bessemer:{bessemer.__version__}"  # the user's own: no package index has this name yet
VOLUME = "bessemer-home"  # a volume (claim) that every machine can write to, with the plan and its data
HOME = "/bessemer"  # where it is mounted
TRAVEL = ("BESSEMER_TRACK", "BESSEMER_DTYPE", "BESSEMER_COMPILE", "BESSEMER_HUNG_AFTER")  # settings of a run
LONGEST = 47  # characters of a RayJob's name: KubeRay appends to it
GPU = "H100"  # SkyPilot wants a name


def write_manifest(recipe: Recipe, place: Place, screen: Screen, path: Path, *, restart: bool = False) -> None:
    """Plan the run and write the manifest of the machines that will continue it.

    Raises BessemerError when releases are to be signed: those machines do not get this one's key.
    """
    if signing_key():
        raise BessemerError(
            "what those machines release would not be signed: no key is written into a manifest",
            where=SIGNING_KEY,
            fix="unset it here, and `bessemer sign` the release later",
        )
    need_new(path)
    with exclusive(lock_path(recipe.name), f"the run {recipe.name}"):
        make_plan(recipe, screen, measured=False, restart=restart, here=False)
    if paths := _paths(recipe):
        screen.say(
            f"those machines must have {', '.join(paths)} under the same names: mount them in the manifest, or make "
            "data sets of them (`bessemer data prepare`), which lie in the volume"
        )
    write_text(path, yaml.safe_dump(make_manifest(recipe.name, place), sort_keys=False))


def _paths(recipe: Recipe) -> list[str]:
    """Addresses of this machine's own disk in a recipe."""
    data = (x.from_ for group in (recipe.sources, recipe.probes, recipe.tasks) for x in group.values())
    models = (a for a in (recipe.start, recipe.chat_template or "") if Path(a).expanduser().exists())
    return sorted({a for a in data if ":" not in a and a != FAMILY} | {*models} - {""})


def make_manifest(name: str, place: Place) -> dict[str, Any]:
    """The manifest as plain data. place.kind: k8s or sky."""
    return _ray_job(name, place) if place.kind == "k8s" else _sky_task(name, place)


def _environment() -> dict[str, str]:
    return {"BESSEMER_HOME": HOME} | {key: value for key in TRAVEL if (value := os.environ.get(key))}


def _command(name: str, on: str, place: Place) -> str:
    options = f" --workers {place.workers}" if place.workers > 1 or on == "ray" else ""
    options += f" --cpus {place.cpus}{' --gpus' * place.gpus}" if on == "ray" else ""
    return f"bessemer runs resume {name} --on {on}{options}"


def _dns(name: str) -> str:
    """What Kubernetes takes for a name; two names that would be the same, or too long, are told apart."""
    plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    if plain == name and len(plain) <= LONGEST:
        return plain
    return f"{plain[: LONGEST - 7].strip('-')}-{sha256_text(name)[:6]}"


def _ray_job(name: str, place: Place) -> dict[str, Any]:
    """https://docs.ray.io/en/latest/cluster/kubernetes/getting-started/rayjob-quick-start.html, Kueue's label."""
    limits = {"cpu": str(place.cpus), "memory": "16Gi"} | ({"nvidia.com/gpu": "1"} if place.gpus else {})

    def pod(resources: dict[str, str]) -> dict[str, Any]:
        container = {
            "name": "ray",
            "image": IMAGE,
            "resources": {"requests": resources, "limits": resources},
            "env": [{"name": key, "value": value} for key, value in _environment().items()],
            "volumeMounts": [{"name": "home", "mountPath": HOME}],
        }
        volume = {"name": "home", "persistentVolumeClaim": {"claimName": VOLUME}}
        return {"spec": {"containers": [container], "volumes": [volume]}}

    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": {"name": _dns(f"bessemer-{name}"), "labels": {"kueue.x-k8s.io/queue-name": place.target}},
        "spec": {
            "entrypoint": _command(name, "ray", place),
            "shutdownAfterJobFinishes": True,
            "suspend": True,  # Kueue starts it when there is room
            "rayClusterSpec": {
                "headGroupSpec": {"rayStartParams": {}, "template": pod({"cpu": "2", "memory": "16Gi"})},
                "workerGroupSpecs": [
                    {
                        "groupName": "workers",
                        "replicas": place.workers,
                        "minReplicas": place.workers,
                        "maxReplicas": place.workers,
                        "rayStartParams": {},
                        "template": pod(limits),
                    }
                ],
            },
        },
    }


def _sky_task(name: str, place: Place) -> dict[str, Any]:
    """https://docs.skypilot.co/en/latest/reference/yaml-spec.html; a volume, because buckets cannot rename or lock."""
    resources = {"image_id": f"docker:{IMAGE}", "cpus": f"{place.cpus * place.workers}+", "memory": "16+"}
    if place.gpus:
        resources["accelerators"] = f"{GPU}:{place.workers}"
    return {
        "name": _dns(f"bessemer-{name}"),
        "resources": resources,
        "envs": _environment(),
        "volumes": {HOME: VOLUME},
        "run": _command(name, "local", place),
    }
