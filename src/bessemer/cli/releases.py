"""bessemer releases"""

from __future__ import annotations

from typing import Any

from bessemer.cli.options import Json, print_json, print_table


def releases(json: Json = False) -> None:
    """List the releases in the local registry."""
    from bessemer.registry.store import list_releases

    found = list_releases()
    if json:
        listed: list[dict[str, Any]] = [
            {
                "release": r.reference,
                "digest": r.digest,
                "path": str(r.path),
                "created": r.manifest["created"],
                "verdict": r.manifest["verdict"],
                "base": r.manifest["base"]["name"],
            }
            for r in found
        ]
        print_json(listed)
        return
    rows = [
        [r.reference, r.digest[:12], r.manifest["verdict"], r.manifest["base"]["name"], r.manifest["created"]]
        for r in found
    ]
    title = "Releases" if rows else "No releases yet: bessemer run RECIPE"
    print_table(title, ["release", "digest", "verdict", "base", "created"], rows)
