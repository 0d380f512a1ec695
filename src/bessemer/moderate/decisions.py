"""What was decided, and who disagreed: the decision log, appeals, and the rows that they teach.

A decision holds a keyed hash of the cleaned comment, so that the same comment is found again while nobody can guess
texts by hashing them; the text itself only where logging of texts is switched on. An appeal brings the text with it,
because its purpose is to be learnt from.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from bessemer.data.moderation import MAX_CHARACTERS, Comment, clean
from bessemer.errors import BessemerError
from bessemer.files import home, make_secret
from bessemer.moderate.chain import ChainLog, Entry, find_entry, read_entries
from bessemer.moderate.decide import Decision
from bessemer.moderate.policy import Policy
from bessemer.units import now

Ruling = Literal["overturned", "upheld", "missed"]
RULINGS: tuple[Ruling, ...] = get_args(Ruling)
KEY_BYTES = 32


def decisions_folder() -> Path:
    return home() / "decisions"


def appeals_folder() -> Path:
    return home() / "appeals"


def comment_key() -> bytes:
    """The key of the hashes, made when it is missing; for this user alone. Raises BessemerError for a damaged one."""
    path = home() / "keys" / "decisions.key"
    make_secret(path, secrets.token_hex(KEY_BYTES))
    text = path.read_text().strip()
    if not re.fullmatch(rf"[0-9a-f]{{{2 * KEY_BYTES}}}", text):
        raise BessemerError(
            f"the key of the decision log has {len(text)} characters, not {2 * KEY_BYTES} hexadecimal ones",
            where=str(path),
            fix="restore it from a copy; without it, appeals against older decisions cannot bring a text",
        )
    return bytes.fromhex(text)


def hash_comment(text: str, key: bytes) -> str:
    """Of what people see; of a text that is too long to be judged, of what was sent."""
    seen = clean(text).encode() if len(text) <= MAX_CHARACTERS else text.encode(errors="replace")
    return hmac.new(key, seen, hashlib.sha256).hexdigest()


def decision_entry(
    comment: Comment, policy: Policy, decision: Decision | None, *, calibration: str = "", release: str, digest: str,
    canary: bool, key: bytes, text: bool, error: str = "",
) -> Entry:  # fmt: skip
    """decision None: the comment could not be judged, for the reason `error`. calibration: its digest, or empty."""
    entry: Entry = {
        "at": now(),
        "release": release,
        "digest": digest,
        "canary": canary,
        "policy": policy.reference,
        "policy_hash": policy.digest,
        "calibration": calibration or None,
        "community": _storable(comment.community or policy.community),
        "comment": hash_comment(comment.text, key),
        "action": decision.outcome if decision else "queue",
    }
    if decision:
        entry["rules"] = {
            f.rule: [round(f.score, 6), None if f.threshold is None else round(f.threshold, 6), f.word, f.action]
            for f in decision.findings
        }
    if error:
        entry["error"] = error
    return entry | (_texts(comment) if text else {})


def _texts(comment: Comment) -> dict[str, str]:
    """A comment and what it answers, as far as there is anything."""
    given = {"text": comment.text, "title": comment.title, "parent": comment.parent}
    return {name: _storable(text) for name, text in given.items() if text}


def _storable(text: str) -> str:
    """Halves of surrogate pairs, which no file can hold, become question marks."""
    return text.encode(errors="replace").decode()


# -- appeals ----------------------------------------------------------------------------------------------------


def appeal(
    log: ChainLog,
    decisions: Path,
    identity: str,
    outcome: Ruling,
    *,
    rules: Sequence[str] = (),
    text: str = "",
    title: str = "",
    parent: str = "",
    note: str = "",
    key: bytes,
) -> Entry:
    """Record what people found about a decision of the folder `decisions`.

    Returns the entry; its `teaches` says whether a row for training comes of it.
    overturned: the rules (default: all that were cited) are kept; upheld: they are broken; missed: `rules` are broken,
    but the decision did not say so. Raises BessemerError for an unknown decision or rule, or a text that is not the one
    that was decided on.
    """
    decision = find_entry(decisions, identity)
    known: Mapping[str, Any] = decision.get("rules", {})
    unknown = [rule for rule in rules if rule not in known]
    if unknown:
        raise BessemerError(
            f"the decision knows no rule {unknown[0][:80]!r}",
            where=identity,
            fix=f"its rules: {', '.join(known) or 'none'}",
        )
    cited = [rule for rule, found in known.items() if found[2] == "broken"]
    meant = list(rules) or ([] if outcome == "missed" else cited)
    if not meant:
        raise BessemerError(
            "the appeal names no rule" if outcome == "missed" else "the decision cites no rule",
            where=identity,
            fix="say which rules were missed: outcome `missed` with `rules`",
        )
    if outcome == "upheld" and (kept := [rule for rule in meant if known[rule][2] == "kept"]):
        raise BessemerError(
            f"the decision found {kept[0]!r} kept: that it is broken is `missed`, that it is kept needs no appeal",
            where=identity,
            fix="outcome `missed`, or name the rules that were cited",
        )
    if len(text) > MAX_CHARACTERS:
        raise BessemerError(
            f"the text has {len(text):,} characters; comments have at most {MAX_CHARACTERS:,}", where=identity,
            fix="send it as it was sent then",
        )  # fmt: skip
    if text and not hmac.compare_digest(hash_comment(text, key), str(decision["comment"])):
        raise BessemerError(
            "the text is not the one that was decided on", where=identity, fix="send it as it was sent then"
        )
    was = {name: str(decision.get(name, "")) for name in ("text", "title", "parent")}
    comment = Comment(text or was["text"], title or was["title"], parent or was["parent"])
    entry: Entry = {
        "at": now(),
        "decision": identity,
        "outcome": outcome,
        "labels": dict.fromkeys(meant, outcome != "overturned"),
        "teaches": bool(clean(comment.text)),
        **{k: decision[k] for k in ("policy", "policy_hash", "digest", "community", "comment")},
    }
    return _kept(log, entry, comment, note)


def suggestion(
    log: ChainLog, comment: Comment, policy: Policy, labels: Mapping[str, bool], *, digest: str, key: bytes
) -> Entry:
    """Labels for a comment without a decision, as Perspective's `suggestscore` brings them."""
    entry: Entry = {
        "at": now(),
        "outcome": "suggested",
        "labels": dict(labels),
        "teaches": bool(clean(comment.text)),
        "policy": policy.reference,
        "policy_hash": policy.digest,
        "digest": digest,
        "community": _storable(comment.community or policy.community),
        "comment": hash_comment(comment.text, key),
    }
    return _kept(log, entry, comment)


def _kept(log: ChainLog, entry: Entry, comment: Comment, note: str = "") -> Entry:
    if clean(comment.text):
        entry |= _texts(comment)
    if note:
        entry["note"] = _storable(note[:2000])
    entry["id"] = log.write([entry])[0]
    return entry


def training_rows(entries: Iterator[Entry]) -> Iterator[dict[str, Any]]:
    """Appeals and suggestions with a text -> rows of a moderation log, which `bessemer data moderation` reads.

    Of several rulings about one decision and rule the last one; the text may have come with another of them.
    """
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    texts: dict[str, Entry] = {}
    for entry in sorted(entries, key=lambda e: str(e["at"])):  # files are in the order in which their writers began
        about = str(entry.get("decision", entry["id"]))
        if entry.get("text"):
            texts[about] = entry
        for rule, broken in entry["labels"].items():
            overturned = entry["outcome"] == "overturned"
            rows[about, rule] = {
                "id": f"{entry['id']}/{rule}",
                "community": entry["community"],
                "policy": str(entry["policy"]).partition("@")[0],
                "rule": rule,
                "action": "removed" if broken or overturned else "approved",
                "appeal": {"overturned": "overturned", "upheld": "upheld"}.get(entry["outcome"], ""),
                "time": entry["at"],
                "group": entry["comment"],
            }
    for (about, _), row in rows.items():
        if about in texts:
            yield {**row, **{name: texts[about].get(name, "") for name in ("text", "title", "parent")}}


def read_appeals() -> Iterator[Entry]:
    """Every appeal and suggestion. Raises BessemerError where the log was changed."""
    return read_entries(appeals_folder(), "appeal") if appeals_folder().exists() else iter(())
