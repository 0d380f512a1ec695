"""Which version of a release clients get who ask for its name: `BESSEMER_HOME/routes/NAME.json`.

A server that serves a name looks at this file; promoting, a canary share and going back need no restart. Who asks for
`name@version` or a digest is not routed.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from bessemer.errors import BessemerError
from bessemer.files import exclusive, home, read_json, write_json
from bessemer.registry.store import find_release, open_release
from bessemer.units import now

FORMAT = "bessemer.route/1"
MOST_BEFORE = 20


@dataclass(frozen=True)
class Route:
    """stable: the version for most requests. canary: the one for `share` of them. before: stable ones, newest first."""

    name: str
    stable: int
    canary: int | None = None
    share: float = 0.0
    before: tuple[int, ...] = ()
    changed: str = ""

    @property
    def versions(self) -> list[int]:
        """All that must be ready: stable, canary, and the one to go back to."""
        wanted = [self.stable, *([self.canary] if self.canary else []), *self.before[:1]]
        return list(dict.fromkeys(wanted))


def path_of(name: str) -> Path:
    return home() / "routes" / f"{name}.json"


def read_route(name: str) -> Route | None:
    """None when nobody chose a version. Raises BessemerError when the file is no route."""
    path = path_of(name)
    if not path.exists():
        return None
    raw: dict[str, Any] = read_json(path)
    try:
        fields = {k: v for k, v in raw.items() if k != "format"}
        found = Route(**{**fields, "before": tuple(fields.get("before", ()))})
        if fields["name"] != name:
            raise TypeError(f"it is that of {fields['name']}")
    except (KeyError, TypeError, AttributeError) as error:
        raise BessemerError(
            f"no route ({error})", where=str(path), fix="remove it, or `bessemer route` again"
        ) from None
    return found


def promote(reference: str, trusted: Path | None = None) -> Route:
    """Make a version the stable one; a canary ends. Raises BessemerError for a release that cannot be opened.

    trusted: here and below, as for `open_release`.
    """
    release = open_release(reference, trusted)

    def change(old: Route | None) -> Route:
        if old is None:
            return Route(release.name, release.version)
        before = (old.stable, *old.before) if old.stable != release.version else old.before
        return Route(release.name, release.version, before=before[:MOST_BEFORE])

    return _change(release.name, change)


def set_canary(reference: str, share: float, trusted: Path | None = None) -> Route:
    """Give a share of the requests to a version; share 0 ends it. Raises BessemerError."""
    release = open_release(reference, trusted) if share else find_release(reference)
    if not 0 <= share < 1:
        raise BessemerError(
            f"{share:g} is no share", where="--canary", fix="give a number from 0 to below 1, such as 0.05"
        )

    def change(old: Route | None) -> Route:
        if old is None:
            raise BessemerError(
                "there is no stable version yet", where=release.name, fix=f"bessemer route {release.name}@VERSION"
            )
        if release.version == old.stable:
            raise BessemerError(
                f"{release.reference} is the stable version", where="--canary", fix="name another version"
            )
        return replace(old, canary=release.version if share else None, share=share)

    return _change(release.name, change)


def roll_back(name: str, trusted: Path | None = None) -> Route:
    """End a canary; without one go back to the stable version before. Raises BessemerError when there is none, or when
    it cannot be opened."""

    def change(old: Route | None) -> Route:
        if old is not None and old.canary is not None:
            return replace(old, canary=None, share=0.0)
        if old is None or not old.before:
            raise BessemerError("there is nothing to go back to", where=name, fix=f"bessemer route {name}@VERSION")
        open_release(f"{name}@{old.before[0]}", trusted)
        return Route(name, old.before[0], before=old.before[1:])

    return _change(name, change)


def _change(name: str, change: Any) -> Route:
    with exclusive(path_of(name).with_suffix(".lock"), f"the route {name}"):
        new: Route = replace(change(read_route(name)), changed=now())
        write_json(path_of(name), {"format": FORMAT, **asdict(new)})
    return new
