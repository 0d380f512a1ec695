"""A seal from its making to its reveal."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bessemer.errors import BessemerError
from bessemer.evaluate import ledger, merkle, openings, seal
from bessemer.evaluate.openings import begin_opening, finish_opening, submissions, withdraw
from bessemer.evaluate.seal import load, public_rows, reveal, verify_reveal, verify_seal
from bessemer.evaluate.sides import choose_sealed, clusters
from tests.evaluate.seals import ONE, RESULT, ROWS, SPEC, TWO, WORDS, events, item, make, score, sha256

# -- what is made -----------------------------------------------------------------------------------------------


def test_a_seal_has_its_parts_and_comes_back(bessemer_home: Path) -> None:
    made = make()
    assert made.folder == bessemer_home / "seals" / "rules"
    files = {p.name for p in made.folder.iterdir()}
    assert files == {"commitment.json", "public.jsonl", "sealed.bin", "leaves.json", "ledger.jsonl"}
    assert made == load("rules") == verify_seal(made.folder) and seal.names() == ["rules"]
    assert events() == ["created"] and made.entries[0]["by"] == "Ada" and made.head == made.entries[0]["hash"]
    assert submissions("rules") == []


def test_the_commitment_says_what_was_committed_to_and_nothing_of_an_item() -> None:
    made = make()
    c = made.commitment
    assert c["format"] == "bessemer.seal/1" and c["name"] == "rules" and c["by"] == "Ada" and c["created"][-1] == "Z"
    assert c["task"] == SPEC and c["plan"] == {"metric": "auroc", "smallest_effect": 0.02, "alpha": 0.05}
    assert c["counts"] == {"items": 40, "public": 20, "sealed": 20, "control": 0, "canary": 0}
    assert c["files"]["public.jsonl"]["sha256"] == sha256(made.folder / "public.jsonl")
    assert c["files"]["sealed.bin"]["sha256"] == sha256(made.folder / "sealed.bin")
    assert c["code"]["tasks.py"] == sha256(Path(seal.__file__).with_name("tasks.py"))
    assert made.digest == sha256(made.folder / "commitment.json")
    assert "item-" not in (made.folder / "commitment.json").read_text()


def test_every_item_is_on_one_side_and_the_sealed_ones_are_nowhere_in_the_clear(bessemer_home: Path) -> None:
    make()
    public = public_rows("rules")
    with begin_opening("rules", model_digest=ONE, by="Ben") as opening:
        hidden = opening.rows()
    assert sorted([*public, *hidden], key=lambda r: r["id"]) == sorted(ROWS, key=lambda r: r["id"])
    assert len(public) == len(hidden) == 20
    for path in bessemer_home.rglob("*"):
        content = path.read_bytes() if path.is_file() else b""
        for row in hidden:
            assert row["id"].encode() + b'"' not in content and row["prompt"].encode() not in content
            assert (row["meta"]["secret"] + '"').encode() not in content


def test_equal_items_and_seed_give_the_same_split_but_other_salts_and_keys() -> None:
    a, b, c = make("a"), make("b"), make("c", seed=8)
    assert public_rows("a") == public_rows("b") != public_rows("c")
    assert a.commitment["root"] != b.commitment["root"] and c.commitment["split"]["seed"] == 8
    assert seal.key_path("a").read_bytes() != seal.key_path("b").read_bytes()


def test_the_key_is_for_this_user_alone(bessemer_home: Path) -> None:
    make()
    key = seal.key_path("rules")
    assert key == bessemer_home / "keys" / "seals" / "rules.key" and len(key.read_bytes()) == 32
    assert key.stat().st_mode & 0o777 == 0o600 and key.parent.stat().st_mode & 0o777 == 0o700


def test_the_scorer_of_a_task_travels_with_the_seal(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def score(item, answer): return 1.0\n")
    made = make(scorer=tmp_path / "mine.py")
    assert made.scorer and made.scorer.read_text().startswith("def score")
    made.scorer.write_text("def score(item, answer): return 0.0\n")
    with pytest.raises(BessemerError, match=r"scorer\.py: its bytes changed"):
        load("rules")


# -- the split --------------------------------------------------------------------------------------------------


def test_groups_stay_together() -> None:
    rows = [item(n, group=f"author {n // 3}" if n < 30 else "") for n in range(40)]
    sealed = choose_sealed(rows, 0.5, 1)
    sides: dict[str, set[bool]] = {}
    for row, side in zip(rows, sealed, strict=True):
        sides.setdefault(row["group"] or row["id"], set()).add(side)
    assert all(len(s) == 1 for s in sides.values()) and 17 <= sum(sealed) <= 23


def test_equal_and_nearly_equal_texts_stay_together_and_groups_join_them() -> None:
    long = " ".join(WORDS * 3)
    rows = [
        {"id": "a", "prompt": "Great!", "answer": "yes"},
        {"id": "b", "prompt": " GREAT!\n", "answer": "no"},  # too short for runs of words
        {"id": "c", "messages": [{"role": "user", "content": long}], "answer": "yes"},
        {"id": "d", "prompt": f"{long} indeed", "answer": "yes", "group": "g"},
        {"id": "e", "prompt": "something else altogether", "answer": "yes", "group": "g"},
        {"id": "f", "good": "The cats sleep.", "bad": "The cats sleeps."},
        {"id": "g", "prompt": "Great", "answer": "yes"},
    ]
    labels = clusters(rows).tolist()
    assert labels[:5] == [0, 0, 2, 2, 2] and labels[5] == 5
    assert labels[6] in (0, 6)  # without its exclamation mark it may count as either


def test_an_instruction_that_all_items_repeat_does_not_tie_them_together() -> None:
    form = "Read the comment below with care and say in one word whether it breaks the rule of this community. " * 3
    rows = [item(n) | {"prompt": form + item(n)["prompt"]} for n in range(60)]
    assert len(set(clusters(rows).tolist())) == 60
    assert sum(choose_sealed(rows, 0.5, 0)) == 30


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("seed", range(5))
def test_each_answer_has_its_share_on_both_sides(share: float, seed: int) -> None:
    rows = [item(n) | {"answer": "yes" if n % 10 == 0 else "no"} for n in range(200)]
    sealed = choose_sealed(rows, share, seed)
    counts = Counter(r["answer"] for r, s in zip(rows, sealed, strict=True) if s)
    assert abs(counts["yes"] - share * 20) <= 1 and abs(counts["no"] - share * 180) <= 1


def test_as_many_answers_as_items_leave_the_share_as_it_is() -> None:
    rows = [item(n) | {"answer": f"text {n}"} for n in range(100)]
    assert sum(choose_sealed(rows, 0.3, 0)) == 30
    rows = [item(n) | {"answer": f"class {n % 45}"} for n in range(100)]
    assert sum(choose_sealed(rows, 0.3, 0)) in (29, 30, 31)


# -- bad input --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "what"),
    [
        ([*ROWS, ROWS[3]], "items 4 and 41 have the same id 'item-3'"),
        ([*ROWS, {"prompt": "x", "answer": "yes"}], "item 41 of 41 has no id"),
        ([*ROWS, {"id": "", "prompt": "x"}], "item 41 of 41 has no id"),
        ([*ROWS, {"id": 7, "prompt": "x"}], "item 41 of 41 has no id"),
        ([*ROWS, {"id": "x", "control": True}], "'x' has a key `control`"),
        ([*ROWS, item(99, meta={"x": float("nan")})], r"item 'item-99': cannot be written as JSON"),
        ([*ROWS, item(99, meta={"x": {1, 2}})], r"item 'item-99': cannot be written as JSON"),
        ([*ROWS, item(99, meta={1: "x"})], r"item 'item-99': JSON would not give back"),
        ([*ROWS, item(99, meta={"x": "\ud800"})], r"item 'item-99': cannot be written as JSON"),
        (ROWS[:3], "3 items cannot be split"),
        ([], "0 items cannot be split"),
        ([item(n, group="one") for n in range(9)], "part would be empty: 9 items are only 1 clusters"),
        ([item(0) | {"id": f"{n}"} for n in range(9)], "part would be empty"),
    ],
)
def test_unfit_items_are_refused_and_leave_nothing(rows: Any, what: str, bessemer_home: Path) -> None:
    with pytest.raises(BessemerError, match=what) as caught:
        make(rows=rows)
    assert caught.value.fix
    assert seal.names() == [] and not (bessemer_home / "keys").exists()


@pytest.mark.parametrize(
    ("more", "what"),
    [
        ({"name": "../rules"}, "is no name of a seal"),
        ({"name": ""}, "is no name of a seal"),
        ({"share": 0.0}, "cannot be sealed"),
        ({"share": 1.0}, "cannot be sealed"),
        ({"share": float("nan")}, "cannot be sealed"),
        ({"share": 0.01}, "the sealed part would be empty"),
        ({"by": " "}, "is empty"),
        ({"limit": 0}, "a limit of 0"),
        ({"control": 11}, "11 of 20 sealed items cannot be controls"),
        ({"control": -1}, "cannot be controls"),
        ({"control": 5, "canary": 4}, "right on all of 9 coin flips may be lucky"),
        ({"spec": SPEC | {"kind": "essay"}}, "'essay' is no kind of task"),
        ({"spec": SPEC | {"kind": "generate"}, "control": 2}, "kind generate has no answers to flip a coin about"),
        ({"spec": SPEC | {"alpha": float("inf")}}, "cannot be written as JSON"),
    ],
)
def test_unfit_wishes_are_refused(more: dict[str, Any], what: str) -> None:
    with pytest.raises(BessemerError, match=what):
        make(**more)
    assert seal.names() == []


def test_a_seal_is_never_made_twice() -> None:
    before = {p.name: p.read_bytes() for p in make().folder.iterdir()}
    with pytest.raises(BessemerError, match="there is a seal 'rules' already"):
        make(rows=ROWS[:20])
    assert {p.name: p.read_bytes() for p in load("rules").folder.iterdir()} == before


def test_a_seal_that_is_not_there_names_those_that_are() -> None:
    make()
    for act in (load, public_rows, submissions):
        with pytest.raises(BessemerError, match="there is no seal 'rule'") as caught:
            act("rule")
        assert caught.value.fix == "seals: rules"


# -- openings ---------------------------------------------------------------------------------------------------


def test_an_opening_is_two_entries_and_the_model_is_never_scored_again() -> None:
    make()
    score()
    assert events() == ["created", "opened", "scored"]
    opened = load("rules").entries[1]
    assert opened["by"] == "Ben" and opened["model"] == ONE and opened["code_changed"] == []
    with pytest.raises(BessemerError, match=rf"was scored on 20\S+Z by Ben, with result {RESULT}; a model is scored"):
        begin_opening("rules", model_digest=ONE, by="Cy")
    assert events() == ["created", "opened", "scored"]
    score(model=TWO)
    assert [(s.model, s.state, s.score) for s in submissions("rules")] == [
        (ONE, "scored", {"auroc": 0.75}),
        (TWO, "scored", {"auroc": 0.75}),
    ]
    verify_seal(load("rules").folder)


def test_nothing_is_decrypted_before_the_opening_is_on_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    make()
    seen: list[list[str]] = []
    real = seal.decrypt
    monkeypatch.setattr(seal, "decrypt", lambda s: seen.append(events()) or real(s))
    score()
    assert seen and all("opened" in known for known in seen)


def test_a_killed_evaluation_continues_without_a_second_entry() -> None:
    make()
    for n in range(3):
        with begin_opening("rules", model_digest=ONE, by=f"try {n}") as opening:
            assert opening.continued == (n > 0) and len(opening.rows()) == 20
            assert opening.entry["by"] == "try 0"
    assert events() == ["created", "opened"]
    score()
    assert events() == ["created", "opened", "scored"]


def test_finishing_twice_is_finishing_once() -> None:
    make()
    opening = begin_opening("rules", model_digest=ONE, by="Ben")
    first = finish_opening(opening, result_digest=RESULT, score={"auroc": 0.75})
    assert finish_opening(opening, result_digest=RESULT, score={"auroc": 0.75}) == first
    with pytest.raises(BessemerError, match="was scored on"):
        finish_opening(opening, result_digest="f" * 64, score={"auroc": 0.99})
    assert events() == ["created", "opened", "scored"]


@pytest.mark.parametrize("wrong", [{"auroc": float("nan")}, {"auroc": float("inf")}, {"x": object()}])
def test_a_score_that_is_no_number_is_refused_and_the_opening_stays_open(wrong: dict[str, Any]) -> None:
    make()
    opening = begin_opening("rules", model_digest=ONE, by="Ben")
    with pytest.raises(BessemerError, match="score: cannot be written as JSON"):
        finish_opening(opening, result_digest=RESULT, score=wrong)
    finish_opening(opening, result_digest=RESULT, score={"auroc": 0.5})
    assert events() == ["created", "opened", "scored"]


@pytest.mark.parametrize("digest", ["", "short", "has space " * 3, "a" * 201, "../../../etc/passwd"])
def test_what_is_no_digest_is_no_model(digest: str) -> None:
    make()
    with pytest.raises(BessemerError, match="is no digest"):
        begin_opening("rules", model_digest=digest, by="Ben")
    assert events() == ["created"]


@pytest.mark.parametrize(("n", "metric", "fits"), [(4, "auroc", False), (12, "auroc", True), (4, "accuracy", True)])
def test_a_sealed_part_that_could_have_no_interval_is_not_made(n: int, metric: str, fits: bool) -> None:
    """Half of 100 items are sealed; two of the rarer answer are lacking in 13 of a hundred draws."""
    rows = [item(i) | {"answer": "yes" if i % (100 // n) == 0 and i < 100 // n * n else "no"} for i in range(100)]
    assert sum(row["answer"] == "yes" for row in rows) == n
    if fits:
        make(rows=rows, spec={**SPEC, "metric": metric})
    else:
        with pytest.raises(BessemerError, match="would have no interval.*draws lack it(.|\n)*seal a larger share"):
            make(rows=rows, spec={**SPEC, "metric": metric})
        assert not seal.folder_of("rules").exists()


def test_a_limit_is_for_models_not_for_tries() -> None:
    make(limit=1)
    begin_opening("rules", model_digest=ONE, by="Ben").close()
    begin_opening("rules", model_digest=ONE, by="Ben").close()
    with pytest.raises(BessemerError, match="lets 1 models be scored, and 1 were opened for"):
        begin_opening("rules", model_digest=TWO, by="Ben")
    score()
    withdraw("rules", ONE, "Ben", "a bug")
    with pytest.raises(BessemerError, match="lets 1 models"):  # withdrawing buys no second try
        begin_opening("rules", model_digest=TWO, by="Ben")


def test_a_ledger_of_more_models_than_were_allowed_is_no_seal_s() -> None:
    """Its chain is sound: whoever owns the folder can write on."""
    made = make(limit=1)
    score()
    opened, scored = ledger.read_ledger(made.folder / seal.LEDGER)[-2:]
    assert (opened["event"], scored["event"]) == ("opened", "scored") and seal.load("rules").commitment["limit"] == 1
    for entry in (opened, scored):
        facts = {k: v for k, v in entry.items() if k not in ledger.RESERVED} | {"model": TWO}
        ledger.append(made.folder / seal.LEDGER, entry["event"], lock=made.folder.parent / ".x.lock", **facts)
    with pytest.raises(BessemerError, match="2 models were opened, but the commitment allows 1"):
        seal.load("rules")


def test_what_is_withdrawn_stays_listed_with_its_score() -> None:
    make()
    score()
    begin_opening("rules", model_digest=TWO, by="Ben").close()
    withdraw("rules", ONE[:10], "Ben", "the wrong tokenizer")
    gone = withdraw("rules", TWO, "Cy", "never finished")
    assert (gone.state, gone.withdrawn_by, gone.why, gone.score) == ("withdrawn", "Cy", "never finished", {})
    first = submissions("rules")[0]
    assert (first.state, first.why, first.score) == ("withdrawn", "the wrong tokenizer", {"auroc": 0.75})
    for model in (ONE, TWO):
        with pytest.raises(BessemerError, match=r"was withdrawn on 20\S+Z by (Ben|Cy) \("):
            begin_opening("rules", model_digest=model, by="Ben")
    with pytest.raises(BessemerError, match="was withdrawn on"):
        withdraw("rules", ONE, "Ben", "again")
    for unknown in ("3" * 64, ONE[:4], ""):
        with pytest.raises(BessemerError, match="0 submissions are of model"):
            withdraw("rules", unknown, "Ben", "x")
    with pytest.raises(BessemerError, match="why: is empty"):
        withdraw("rules", ONE, "Ben", "")
    assert events() == ["created", "opened", "scored", "opened", "withdrawn", "withdrawn"]


def test_an_opening_whose_model_was_withdrawn_meanwhile_is_not_scored() -> None:
    make()
    opening = begin_opening("rules", model_digest=ONE, by="Ben")
    withdraw("rules", ONE, "Ada", "it leaked")
    with pytest.raises(BessemerError, match="was withdrawn"):
        finish_opening(opening, result_digest=RESULT, score={})


def test_other_code_than_at_the_commitment_is_written_down(monkeypatch: pytest.MonkeyPatch) -> None:
    make()
    monkeypatch.setattr(openings, "code_digests", lambda: seal.code_digests() | {"tasks.py": "0" * 64})
    with begin_opening("rules", model_digest=ONE, by="Ben") as opening:
        assert opening.code_changed == ("tasks.py",)
    assert submissions("rules")[0].code_changed == ("tasks.py",)


def test_the_salt_of_a_cache_is_secret_and_stays() -> None:
    make()
    salts: list[str] = []
    for model in (ONE, TWO):
        with begin_opening("rules", model_digest=model, by="Ben") as opening:
            salts.append(opening.salt)
    assert salts[0] == salts[1] and salts[0] not in "".join(
        p.read_text("latin1") for p in opening.seal.folder.iterdir()
    )


# -- the key ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (Path.unlink, r"the key cannot be read \(No such file"),
        (lambda p: p.write_bytes(bytes(32)), "this is not the key of the seal"),
        (lambda p: p.chmod(0o640), r"other users may read the key \(mode 640\)"),
    ],
)
def test_a_key_that_does_not_fit_opens_nothing_and_no_opening_is_counted(
    damage: Callable[[Path], Any], what: str
) -> None:
    made = make()
    damage(seal.key_path("rules"))
    for act in (lambda: begin_opening("rules", model_digest=ONE, by="Ben"), lambda: reveal("rules", "Ada")):
        with pytest.raises(BessemerError, match=what):
            act()
    assert events() == ["created"] and verify_seal(made.folder) == made  # which needs no key


def test_a_sealed_part_of_another_commitment_is_not_decrypted() -> None:
    """Same name, same key, all digests right; only the associated data tells."""
    made = make()
    other = json.loads((made.folder / "commitment.json").read_text()) | {"limit": 99}
    (made.folder / "commitment.json").write_text(json.dumps(other))
    (made.folder / "ledger.jsonl").unlink()
    facts = {"name": "rules", "by": "Mallory", "commitment": sha256(made.folder / "commitment.json")}
    ledger.append(made.folder / "ledger.jsonl", "created", lock=made.folder.parent / ".lock", **facts)
    with pytest.raises(BessemerError, match="another commitment than expected"):  # who kept its digest sees it
        verify_seal(made.folder, commitment=made.digest)
    opening = begin_opening("rules", model_digest=ONE, by="Ben")
    with pytest.raises(BessemerError, match="do not belong to this commitment"):
        opening.rows()


# -- controls ---------------------------------------------------------------------------------------------------


def test_controls_have_coin_flips_for_answers_and_are_marked_nowhere_in_the_clear() -> None:
    rows = [item(n) for n in range(400)]
    made = make(rows=rows, control=100)
    assert made.commitment["counts"]["control"] == 100
    assert b"control" not in (made.folder / "public.jsonl").read_bytes()
    with begin_opening("rules", model_digest=ONE, by="Ben") as opening:
        known = {r["id"]: r for r in rows}
        got, controls = opening.rows(), opening.controls()
    assert len(controls) == 100 and all("control" not in row for row in got)
    same = Counter(row["id"] in controls for row in got if row == known[row["id"]])
    assert same[False] == 100 and 30 <= same[True] <= 70  # a coin agrees with the truth half of the time
    assert all({**row, "answer": ""} == {**known[row["id"]], "answer": ""} for row in got)


def test_controls_of_a_choice_keep_the_form_of_the_answer() -> None:
    rows = [item(n) | {"choices": ["a", "b", "c"], "answer": n % 3 if n % 2 else "abc"[n % 3]} for n in range(120)]
    make(rows=rows, spec=SPEC | {"kind": "choice", "metric": None}, control=30)
    assert load("rules").commitment["plan"]["metric"] == "accuracy"  # the default of its kind
    with begin_opening("rules", model_digest=ONE, by="Ben") as opening:
        for row in opening.rows():
            assert row["answer"] in ([0, 1, 2] if int(row["id"][5:]) % 2 else ["a", "b", "c"])
    reveal("rules", "Ada")
    assert sum(i.control for i in verify_reveal(load("rules").folder)) == 30


# -- reveal -----------------------------------------------------------------------------------------------------


def test_what_is_revealed_verifies_without_key_and_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make(control=10)
    score()
    path = reveal("rules", "Ada")
    assert path == made.folder / "revealed.jsonl" and events()[-1] == "revealed"
    copied = tmp_path / "elsewhere"
    shutil.copytree(made.folder, copied)
    monkeypatch.setenv("BESSEMER_HOME", str(tmp_path / "empty"))
    assert verify_seal(copied, head=made.head, commitment=made.digest).revealed
    items = verify_reveal(copied)
    assert len(items) == 20 and sum(i.control for i in items) == 10
    leaves = [bytes.fromhex(i.leaf) for i in items]
    assert merkle.root_of(leaves).hex() == made.commitment["root"]  # and one item can be shown alone
    assert merkle.is_in(leaves[3], 3, 20, merkle.proof_of(leaves, 3), bytes.fromhex(made.commitment["root"]))


def test_after_a_reveal_no_model_is_scored() -> None:
    make()
    late = begin_opening("rules", model_digest=ONE, by="Ben")
    reveal("rules", "Ada")
    with pytest.raises(BessemerError, match=r"were revealed on 20\S+Z by Ada, so no opening counts"):
        finish_opening(late, result_digest=RESULT, score={})
    late.close()
    for model in (ONE, TWO):
        with pytest.raises(BessemerError, match="no opening counts"):
            begin_opening("rules", model_digest=model, by="Ben")
    assert load("rules").entries[-1]["note"] == "openings after this entry do not count"
    reveal("rules", "Ada")  # again: nothing new
    assert events() == ["created", "opened", "revealed"]


def test_a_reveal_that_was_killed_is_seen_and_finished() -> None:
    made = make()
    path = reveal("rules", "Ada")
    content = path.read_bytes()
    path.unlink()
    with pytest.raises(BessemerError, match="was revealed, but the file is missing") as caught:
        verify_seal(made.folder)
    assert "bessemer seal reveal rules" in caught.value.fix
    assert reveal("rules", "Ada").read_bytes() == content and events() == ["created", "revealed"]
    assert verify_seal(made.folder).revealed


def test_items_that_nobody_revealed() -> None:
    made = make()
    with pytest.raises(BessemerError, match="its items are not revealed"):
        verify_reveal(made.folder)
    (made.folder / "revealed.jsonl").write_text("{}\n")
    with pytest.raises(BessemerError, match="the ledger knows of no reveal"):
        load("rules")
