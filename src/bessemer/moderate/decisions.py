"""What was decided, and who disagreed: the decision log, appeals, and the rows that they teach.

A decision holds a keyed hash of the cleaned comment, so that the same comment is found again while nobody can guess
texts by hashing them; the text itself only where logging of texts is switched on. An appeal brings the text with it,
because its purpose is to be learnt from.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from bessemer.data.moderation import Comment, clean
from bessemer.errors import BessemerError
from bessemer.files import home
from bessemer.moderate.chain import ChainLog, Entry, find_entry, read_entries
from bessemer.moderate.decide import Decision
from bessemer.moderate.policy import Policy

Outcome = Literal["overturned", "upheld", "missed"]
OUTCOMES = ("overturned", "upheld", "missed")


def decisions_folder() -> Path:
    return home() / "decisions"


def appeals_folder() -> Path:
    return home() / "appeals"


def comment_key() -> bytes:
    """The key of the hashes, made when it is missing; for this user alone."""
    path = home() / "keys" / "decisions.key"
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w") as file:
            file.write(secrets.token_hex(32))
    except FileExistsError:
        pass
    return bytes.fromhex(path.read_text().strip())


def hash_comment(text: str, key: bytes) -> str:
    return hmac.new(key, clean(text).encode(), hashlib.sha256).hexdigest()


def decision_entry(
    comment: Comment, policy: Policy, decision: Decision | None, *, release: str, digest: str, canary: bool, key: bytes,
    text: bool, error: str = "",
) -> Entry:  # fmt: skip
    """decision None: the comment could not be judged, for the reason `error`."""
    entry: Entry = {
        "at": _now(),
        "release": release,
        "digest": digest,
        "canary": canary,
        "policy": policy.reference,
        "policy_hash": policy.digest,
        "community": comment.community or policy.community,
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
    if text:
        entry["text"] = comment.text.encode(errors="replace").decode()
    return entry


# -- appeals ----------------------------------------------------------------------------------------------------


def appeal(
    log: ChainLog,
    decisions: Path,
    identity: str,
    outcome: Outcome,
    *,
    rules: Sequence[str] = (),
    text: str = "",
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
    if text and not hmac.compare_digest(hash_comment(text, key), str(decision["comment"])):
        raise BessemerError(
            "the text is not the one that was decided on", where=identity, fix="send it as it was sent then"
        )
    text = text or str(decision.get("text", ""))
    entry: Entry = {
        "at": _now(),
        "decision": identity,
        "outcome": outcome,
        "labels": dict.fromkeys(meant, outcome != "overturned"),
        "teaches": bool(clean(text)),
        **{k: decision[k] for k in ("policy", "policy_hash", "digest", "community", "comment")},
    }
    return _kept(log, entry, text, note)


def suggestion(log: ChainLog, comment: Comment, policy: Policy, labels: Mapping[str, bool], *, digest: str, key: bytes,
               note: str = "") -> Entry:  # fmt: skip
    """Labels for a comment without a decision, as Perspective's `suggestscore` brings them."""
    entry: Entry = {
        "at": _now(),
        "outcome": "suggested",
        "labels": dict(labels),
        "teaches": bool(clean(comment.text)),
        "policy": policy.reference,
        "policy_hash": policy.digest,
        "digest": digest,
        "community": comment.community or policy.community,
        "comment": hash_comment(comment.text, key),
    }
    return _kept(log, entry, comment.text, note)


def _kept(log: ChainLog, entry: Entry, text: str, note: str) -> Entry:
    if clean(text):
        entry["text"] = text.encode(errors="replace").decode()
    if note:
        entry["note"] = note[:2000].encode(errors="replace").decode()
    entry["id"] = log.write([entry])[0]
    return entry


def training_rows(entries: Iterator[Entry]) -> Iterator[dict[str, Any]]:
    """Appeals and suggestions with a text -> rows of a moderation log, which `bessemer data moderation` reads."""
    for entry in entries:
        if not entry.get("text"):
            continue
        for rule, broken in entry["labels"].items():
            overturned = entry["outcome"] == "overturned"
            yield {
                "id": f"{entry['id']}/{rule}",
                "text": entry["text"],
                "community": entry["community"],
                "rule": rule,
                "action": "removed" if broken or overturned else "approved",
                "appeal": {"overturned": "overturned", "upheld": "upheld"}.get(entry["outcome"], ""),
                "time": entry["at"],
                "group": entry["comment"],
            }


def read_appeals() -> Iterator[Entry]:
    """Every appeal and suggestion. Raises BessemerError where the log was changed."""
    return read_entries(appeals_folder(), "appeal") if appeals_folder().exists() else iter(())


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
