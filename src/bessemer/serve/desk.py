"""Where comments are judged: finds the policy, prepares, waits in line, decides, writes the log."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from bessemer.data.moderation import Comment
from bessemer.errors import BessemerError
from bessemer.moderate.calibrate import load_calibration
from bessemer.moderate.calibrate import path_of as calibration_path
from bessemer.moderate.chain import ChainLog
from bessemer.moderate.decide import Decision, Known, decide
from bessemer.moderate.decisions import appeals_folder, comment_key, decision_entry, decisions_folder
from bessemer.moderate.judge import CommentError, Question
from bessemer.moderate.policy import Policy, policy_of, stored
from bessemer.moderate.unlabelled import load_scale
from bessemer.moderate.unlabelled import path_of as scale_path
from bessemer.serve.batches import MAX_WAITING_TOKENS
from bessemer.serve.fleet import Backend, Fleet
from bessemer.serve.problems import RequestError, internal_error
from bessemer.serve.worker import QueueFullError

KNOWN = 256  # policies and calibrations that are kept in memory


@dataclass(frozen=True)
class Verdict:
    """Of one comment: a decision, or why there is none. id: of its entry in the log; calibration: digest of what chose
    scores and thresholds, None without one."""

    comment: Comment
    decision: Decision | None
    error: RequestError | None
    id: str
    calibration: str | None


class Desk:
    """What all moderation endpoints share. default: the policy of requests that name none."""

    def __init__(self, fleet: Fleet, default: Policy | None = None, *, keep_text: bool = False) -> None:
        self.fleet, self.default, self.keep_text = fleet, default, keep_text
        self.decisions_folder, self.appeals_folder = decisions_folder(), appeals_folder()
        self._lock = threading.Lock()
        self._key = b""
        self._logs: dict[Path, ChainLog] = {}
        self._policies: dict[str, Policy] = {}
        self._known: dict[tuple[str, ...], tuple[int, Known]] = {}

    # The key and the logs come with the first request that needs them; requests run in several threads.

    @property
    def key(self) -> bytes:
        with self._lock:
            self._key = self._key or comment_key()
            return self._key

    @property
    def log(self) -> ChainLog:
        return self._log(self.decisions_folder, "decision")

    @property
    def appeals(self) -> ChainLog:
        return self._log(self.appeals_folder, "appeal")

    def _log(self, folder: Path, kind: str) -> ChainLog:
        with self._lock:
            if folder not in self._logs:
                self._logs[folder] = ChainLog(folder, kind)
            return self._logs[folder]

    def policy(self, asked: Any) -> Policy:
        """A stored one by `name@version` or `name`, one given whole, or the default.

        Of a large one reading takes seconds: call it beside the event loop. Raises RequestError when there is none, or
        it is no policy.
        """
        try:
            if asked is None:
                if self.default is None:
                    raise RequestError(
                        400,
                        "no policy was named, and this server has no default",
                        code="missing_parameter",
                        param="policy",
                    )
                return self.default
            if isinstance(asked, str):
                return self._stored(asked)
            found = policy_of(asked)
            _ = found.digest  # cleans every text, so it is computed here, where nobody else waits for it
            return found
        except BessemerError as error:
            known = isinstance(asked, str)
            raise RequestError(
                404 if known else 400,
                "; ".join(filter(None, [error.what, error.fix])) if known else str(error).replace("\n  fix: ", "; "),
                code="policy_not_found" if known else "invalid_policy",
                param="policy",
            ) from None

    def _stored(self, name: str) -> Policy:
        found = self._policies.get(name)
        if found is None:
            found = stored(name)
            if "@" in name:  # a version never changes; what a bare name means may
                self._remember(self._policies, name, found)
        return found

    def known(self, policy: Policy, backend: Backend) -> Known:
        """The calibration of this policy for this model, else the model's scale."""
        digest = backend.digest

        def calibrated() -> Known:
            found = load_calibration(policy, digest)
            return found.known if found else Known()

        known = self._read((policy.reference, policy.digest, digest), calibration_path(policy, digest), calibrated)
        if known.rules:
            return known
        return self._read((digest,), scale_path(digest), lambda: load_scale(digest))

    def _read(self, key: tuple[str, ...], path: Path, read: Callable[[], Known]) -> Known:
        """What a file says, read again when it changed; where there is none nothing is remembered."""
        try:
            changed = path.stat().st_mtime_ns
        except OSError:
            return Known()
        known = self._known.get(key)
        if known is None or known[0] != changed:
            known = (changed, read())
            self._remember(self._known, key, known)
        return known[1]

    def _remember(self, known: dict[Any, Any], key: Any, value: Any) -> None:
        with self._lock:
            known[key] = value
            if len(known) > KNOWN:
                del known[next(iter(known))]

    async def judge(
        self, backend: Backend, policy: Policy, comments: Sequence[Comment | RequestError], *, private: bool = False
    ) -> list[Verdict]:
        """A verdict for each comment; one that cannot be judged is queued and fails no other.

        private: its text is not logged whatever the server's setting. Raises RequestError: the policy cannot be asked,
        too many wait, the log cannot be written.
        """
        if not backend.batcher.has_room(len(comments)):  # before anything is computed for them
            raise _busy(backend)
        with stored_for_good("the decision"):
            log, key, known = self.log, self.key, await asyncio.to_thread(self.known, policy, backend)
        prepared = await asyncio.to_thread(self._prepare, backend, policy, comments)
        questions = [p for p in prepared if isinstance(p, Question)]
        try:
            answers = iter(await backend.batcher.odds(questions))
        except QueueFullError:
            raise _busy(backend) from None
        found: list[tuple[Decision | None, RequestError | None]] = []
        for one in prepared:
            odds = next(answers) if isinstance(one, Question) else one
            if isinstance(odds, RequestError):
                found.append((None, odds))
            elif isinstance(odds, BaseException):
                found.append((None, internal_error()))
            else:
                found.append((decide(policy, cast(list[float], odds), known), None))
        given = [c if isinstance(c, Comment) else Comment("") for c in comments]
        ids = await asyncio.to_thread(self._write, log, key, backend, policy, known, given, found, private)
        return [Verdict(c, d, e, i, known.digest or None) for c, (d, e), i in zip(given, found, ids, strict=True)]

    def _prepare(
        self, backend: Backend, policy: Policy, comments: Sequence[Comment | RequestError]
    ) -> list[Question | RequestError]:
        try:
            backend.judge.check(policy)
        except BessemerError as error:
            raise RequestError(
                400, str(error).replace("\n  fix: ", "; "), code="invalid_policy", param="policy"
            ) from None
        found: list[Question | RequestError] = []
        n_tokens = 0
        for place, comment in enumerate(comments):
            if isinstance(comment, RequestError):
                found.append(comment)
                continue
            if n_tokens > MAX_WAITING_TOKENS:
                raise RequestError(
                    413, f"the first {place} comments under {len(policy.rules)} rules are {n_tokens:,} tokens already; "
                    f"at most {MAX_WAITING_TOKENS:,} are judged at once", code="request_too_large", param="input",
                )  # fmt: skip
            try:
                found.append(question := backend.judge.prepare(comment, policy))
                n_tokens += question.n_tokens
            except BessemerError as error:
                code = error.code if isinstance(error, CommentError) else "invalid_comment"
                found.append(RequestError(400, error.what, code=code, param=f"input.{place}"))
        return found

    def _write(
        self, log: ChainLog, key: bytes, backend: Backend, policy: Policy, known: Known, comments: Sequence[Comment],
        found: Sequence[tuple[Decision | None, RequestError | None]], private: bool,
    ) -> list[str]:  # fmt: skip
        entries = [
            decision_entry(
                comment, policy, decision, calibration=known.digest, release=backend.release.reference,
                digest=backend.digest, canary=backend is self.fleet.canary, key=key,
                text=self.keep_text and not private, error=error.code if error else "",
            )
            for comment, (decision, error) in zip(comments, found, strict=True)
        ]  # fmt: skip
        with stored_for_good("the decision"):
            return log.write(entries)

    def close(self) -> None:
        for log in self._logs.values():
            log.close()


@contextmanager
def stored_for_good(what: str) -> Iterator[None]:
    """A log, its key or a calibration that cannot be read or written is the server's fault: 503, and nothing is done.

    What stands in the way (it names files of the server) is for the server's own log.
    """
    try:
        yield
    except (OSError, BessemerError) as error:
        logging.getLogger(__name__).error("%s could not be stored: %s", what, error)
        why = f" ({error.strerror})" if isinstance(error, OSError) else ""
        raise RequestError(
            503, f"{what} could not be logged{why}, so none was taken; the server's log says why",
            code="log_unavailable", kind="server_error", headers={"Retry-After": "60"},
        ) from None  # fmt: skip


def _busy(backend: Backend) -> RequestError:
    return RequestError(
        429, f"{backend.batcher.n_waiting} comments wait already; try again later",
        code="rate_limit_exceeded", kind="rate_limit_error",
        headers={"Retry-After": str(backend.batcher.retry_after_s)},
    )  # fmt: skip
