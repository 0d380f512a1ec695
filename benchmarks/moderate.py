"""Moderation: rules of a comment in one pass beside separate passes; a server under load; its memory; attacks.

    python benchmarks/moderate.py RELEASE [--parts passes load memory start attacks] [--policy POLICY.yaml]
                                  [--comments 16] [--rounds 3] [--clients 50] [--requests 10000]

passes:  ten rules on one comment. Here: `Judge`, tokenizing included, a comment at a time and sixteen at a time. There:
         transformers' own model of the same files in the same precision, one forward pass a rule
         (`logits_to_keep=1`), and the ten prompts as one padded batch. Interleaved, medians; the largest difference of
         a probability, in fp32 and in the machine's precision.
load:    CLIENTS clients ask at the same time; errors, p50, p95. Then more comments than may wait: how many requests are
         told 429, and whether one is answered afterwards.
memory:  REQUESTS requests; resident memory of the server after each tenth.
start:   seconds from the command to the first answer.
attacks: of comments that break a rule by its code and by the model (score of one half and more), the share of findings
         that an attack (tests/serve/attacks.py) brings below one half, and the three worst attacks.

Comments are sentences of Python's documentation, those that are attacked built-in comments; without --policy the rules
are ten families of `data/rule_families.yaml`, in their first wordings.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).parents[1]))  # the attacks are part of the tests

import httpx2
import torch

from bessemer.data.builtin import COLLECTIONS
from bessemer.data.moderation import Comment, ask
from bessemer.data.rule_families import families
from bessemer.infer.model import Loaded, load
from bessemer.moderate.judge import Judge
from bessemer.moderate.policy import Policy, Rule, load_policy
from bessemer.registry.store import open_release

SENTENCE = re.compile(r"[A-Z][^.!?\n]{60,300}[.!?](?=\s)")
TOKEN = "benchmark-token-0123456789"  # noqa: S105 - of a server that lives for this benchmark
Json = dict[str, Any]


def ten_rules() -> Policy:
    chosen = [f for f in families().values() if f.use == "demo"][:10]
    return Policy(name="ten", rules=[Rule(id=f.name, text=f.wordings[0]) for f in chosen])


def sentences(n: int) -> list[str]:
    texts = " ".join(item.text for item in COLLECTIONS["python/docstrings"][1]())
    return [" ".join(s.split()) for s in SENTENCE.findall(texts)][:n]


# -- one pass and separate passes -------------------------------------------------------------------------------


def passes(folder: Path, end_of_text: str, policy: Policy, comments: list[str], rounds: int) -> Json:
    """By precision: fp32, and what this machine is fast in."""
    machines = [load(folder, digest="b", end_of_text=end_of_text, dtype=dtype) for dtype in (torch.float32, None)]
    by_dtype = {str(loaded.machine.dtype).removeprefix("torch."): loaded for loaded in machines}
    return {name: _race(folder, loaded, policy, comments, rounds) for name, loaded in by_dtype.items()}


def _race(folder: Path, loaded: Loaded, policy: Policy, comments: list[str], rounds: int) -> Json:
    judge = Judge(loaded)
    there = _transformers(folder, judge)
    asked = [[loaded.renderer.chat_ids(ask(c, r.read)) for r in policy.rules] for c in comments]

    def here(group: int) -> list[list[float]]:
        found: list[list[float]] = []
        for i in range(0, len(comments), group):
            found += judge.odds([judge.prepare(Comment(c), policy) for c in comments[i : i + group]])
        return found

    ways: dict[str, Callable[[], list[list[float]]]] = {
        "one pass": lambda: here(1),
        "one pass, 16 comments": lambda: here(16),
        "a pass a rule": lambda: [[there([p])[0] for p in prompts] for prompts in asked],
        "a padded batch": lambda: [there(prompts) for prompts in asked],
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    values: dict[str, list[list[float]]] = {}
    for _ in range(rounds + 1):  # the first one warms up
        for name, way in ways.items():
            begun = time.perf_counter()
            values[name] = way()
            seconds[name].append(time.perf_counter() - begun)
    medians = {name: statistics.median(s[1:]) for name, s in seconds.items()}
    probabilities = {name: torch.tensor(v).sigmoid() for name, v in values.items()}
    base = probabilities["a pass a rule"]
    return {
        "comments_per_s": {name: round(len(comments) / s, 2) for name, s in medians.items()},
        "times": {name: round(medians["a pass a rule"] / s, 2) for name, s in medians.items()},
        "largest_difference": {name: float((p - base).abs().max()) for name, p in probabilities.items()},
    }


def _transformers(folder: Path, judge: Judge) -> Callable[[list[list[int]]], list[float]]:
    from transformers import AutoModelForCausalLM

    (yes, no), machine = judge.options, judge.loaded.machine
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=machine.dtype, local_files_only=True)
    model = model.to(machine.device).eval()

    @torch.inference_mode()
    def odds(prompts: list[list[int]]) -> list[float]:
        longest = max(map(len, prompts))
        ids = torch.tensor([[0] * (longest - len(p)) + p for p in prompts], device=machine.device)
        mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts], device=machine.device)
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        out = model(input_ids=ids, attention_mask=mask, position_ids=positions, logits_to_keep=1)
        logits = out.logits[:, -1].float()
        return (logits[:, yes] - logits[:, no]).tolist()

    return odds


# -- a server ---------------------------------------------------------------------------------------------------


@contextmanager
def server(release: str, policy: Policy) -> Iterator[tuple[str, int, float]]:
    """(address, process id, when it was started)."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "policy.yaml"
        path.write_text(json.dumps(policy.model_dump(mode="json")))
        begun = time.perf_counter()
        command = [sys.executable, "-c", "from bessemer.cli.main import main; main()", "serve", release]
        process = subprocess.Popen(
            [*command, "--port", "0", "--policy", str(path)], stdout=subprocess.PIPE, text=True,
            env={**os.environ, "BESSEMER_TOKEN": TOKEN, "PYTHONUNBUFFERED": "1"},
        )  # fmt: skip
        try:
            assert process.stdout is not None
            shown = ""
            while "curl" not in shown:
                line = process.stdout.readline()
                assert line, "the server did not start"
                shown += line
            url = re.search(r"http://\S+?(?=/v1)", shown)
            assert url
            yield url[0], process.pid, begun
        finally:
            process.terminate()
            process.wait(30)


def client(url: str) -> httpx2.Client:
    return httpx2.Client(base_url=url, headers={"Authorization": f"Bearer {TOKEN}"}, timeout=600)


def load_test(url: str, comments: list[str], n_clients: int, each: int) -> Json:
    latencies: list[float] = []
    errors: list[int] = []
    lock = threading.Lock()
    ready = threading.Barrier(n_clients)

    def work(number: int) -> None:
        with client(url) as http:
            ready.wait()
            for k in range(each):
                begun = time.perf_counter()
                answer = http.post("/v1/moderations", json={"input": comments[(number * each + k) % len(comments)]})
                with lock:
                    latencies.append(time.perf_counter() - begun)
                    if answer.status_code != 200:
                        errors.append(answer.status_code)

    begun = time.perf_counter()
    with ThreadPoolExecutor(n_clients) as pool:
        list(pool.map(work, range(n_clients)))
    seconds = time.perf_counter() - begun
    cuts = statistics.quantiles(latencies, n=100)
    with client(url) as http, ThreadPoolExecutor(8) as pool:
        full = {"input": (comments * 256)[:256]}
        statuses = list(pool.map(lambda _: http.post("/v1/moderations", json=full).status_code, range(8)))
        after = http.post("/v1/moderations", json={"input": comments[0]}).status_code
    return {
        "clients": n_clients,
        "requests": len(latencies),
        "errors": errors,
        "comments_per_s": round(len(latencies) / seconds, 2),
        "p50_s": round(cuts[49], 4),
        "p95_s": round(cuts[94], 4),
        "p95_to_p50": round(cuts[94] / cuts[49], 2),
        "overload": {str(s): statuses.count(s) for s in sorted(set(statuses))},
        "after_overload": after,
    }


def memory(url: str, pid: int, comments: list[str], n_requests: int, n_clients: int) -> Json:
    found: list[float] = []
    with client(url) as http, ThreadPoolExecutor(min(n_clients, 8)) as pool:
        for part in range(10):
            numbers = range(part * n_requests // 10, (part + 1) * n_requests // 10)
            bodies = [{"input": f"{comments[i % len(comments)]} {i}"} for i in numbers]
            statuses = list(pool.map(lambda body: http.post("/v1/moderations", json=body).status_code, bodies))
            assert set(statuses) <= {200, 429}, set(statuses)
            found.append(resident_mib(pid))
    return {"requests": n_requests, "resident_mib": found, "growth_mib": round(found[-1] - found[1], 1)}


def resident_mib(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return round(int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024, 1)  # type: ignore[index]


# -- attacks ----------------------------------------------------------------------------------------------------


def attack_rate(http: httpx2.Client, comments: list[str]) -> Json:
    """Scores, not decisions: a release without a calibration decides that nothing is broken."""
    from tests.serve.attacks import ATTACKS, attacked

    def broken(texts: list[str]) -> list[set[str]]:
        answer = http.post("/v1/moderations", json={"input": texts})
        assert answer.status_code == 200, answer.text
        rules = [r["rules"] for r in answer.json()["results"]]
        return [{name for name, rule in found.items() if rule["score"] >= 0.5} for found in rules]

    known = families()
    plain = [
        {name for name in found if name not in known or known[name].breaks(comment)}  # only what is found rightly
        for comment, found in zip(comments, broken(comments), strict=True)
    ]
    n_found = sum(map(len, plain))
    turned = dict.fromkeys(ATTACKS, 0)
    for comment, found in zip(comments, plain, strict=True):
        after = broken(attacked(comment)) if found else []
        for attack, left in zip(ATTACKS, after, strict=False):
            turned[attack] += len(found - left)
    assert n_found, "no comment breaks a rule: nothing can be said of attacks"
    worst = sorted(turned.items(), key=lambda pair: -pair[1])[:3]
    return {
        "turned": round(sum(turned.values()) / (n_found * len(ATTACKS)), 4),
        "findings": n_found,
        "attacks": len(ATTACKS),
        "worst": {attack[:60]: round(n / n_found, 4) for attack, n in worst},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("release")
    parser.add_argument("--parts", nargs="+", default=["passes", "load", "memory", "start", "attacks"])
    parser.add_argument("--policy")
    parser.add_argument("--comments", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--attacked", type=int, default=40)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--each", type=int, default=10)
    parser.add_argument("--requests", type=int, default=10_000)
    asked = parser.parse_args()
    policy = load_policy(asked.policy) if asked.policy else ten_rules()
    release = open_release(asked.release)
    comments = sentences(asked.comments)
    found: Json = {}

    def tell(**facts: Any) -> None:  # as soon as it is known: the parts take minutes each
        found.update(facts)
        print(json.dumps(facts), file=sys.stderr, flush=True)

    tell(release=release.reference, digest=release.digest, policy=policy.digest)
    if "passes" in asked.parts:
        tell(passes=passes(release.path, release.manifest["end_of_text"], policy, comments, asked.rounds))
    if set(asked.parts) & {"load", "memory", "start", "attacks"}:
        with server(release.reference, policy) as (url, pid, begun):
            with client(url) as http:
                assert http.post("/v1/moderations", json={"input": comments[0]}).status_code == 200
                tell(start_s=round(time.perf_counter() - begun, 2))
                if "attacks" in asked.parts:
                    rules = [f for r in policy.rules if (f := families().get(r.id))]
                    said = [item.text for item in COLLECTIONS["comments"][1]()]
                    breaking = [c for c in random.Random(0).sample(said, len(said)) if any(f.breaks(c) for f in rules)]
                    tell(attacks=attack_rate(http, (breaking or said)[: asked.attacked]))
            if "load" in asked.parts:
                tell(load=load_test(url, comments, asked.clients, asked.each))
            if "memory" in asked.parts:
                tell(memory=memory(url, pid, comments, asked.requests, asked.clients))
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
