"""bessemer releases"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from bessemer.cli.options import Json, print_json, print_table, read_each, rows_of


def releases(json: Json = False) -> None:
    """List the releases in the local registry."""
    from bessemer.registry import store

    found = read_each(store.references(), _facts, "release")
    if json:
        print_json(found)
        return
    rows = rows_of(
        found,
        lambda f: [
            f["release"],
            f["digest"][:12],
            (f["signed_by"] or "no")[:12],
            f["verdict"],
            f["base"],
            f["created"],
        ],
        "release",
    )
    title = "Releases" if rows else "No releases yet: bessemer run RECIPE"
    print_table(title, ["release", "digest", "signed by", "verdict", "base", "created"], rows)


def _facts(reference: str) -> dict[str, Any]:
    from bessemer.registry.store import find_release
    from bessemer.signatures import signer_of

    release = find_release(reference)
    return {
        "release": release.reference,
        "digest": release.digest,
        "signed_by": signer_of(release.path),
        "path": str(release.path),
        "created": release.manifest["created"],
        "verdict": release.manifest["verdict"],
        "base": release.manifest["base"]["name"],
    }


def sign(
    release: Annotated[str, typer.Argument(help="name@version")],
    key: Annotated[Path, typer.Option(metavar="PRIVATE_KEY", help="ECDSA key (PEM, mode 600)")],
    json: Json = False,
) -> None:
    """Sign a release with a key of yours, after every byte of it was checked. New ones: BESSEMER_SIGNING_KEY."""
    from bessemer.registry.store import sign_release

    stored, signer = sign_release(release, key)
    if json:
        print_json({"release": stored.reference, "digest": stored.digest, "signed_by": signer})
        return
    print(f"{stored.reference} (digest {stored.digest[:12]}) is signed by the key {signer[:12]}")
    print(f"  check it: bessemer verify {stored.reference} --key PUBLIC_KEY")


def verify_release(reference: str, key: Path | None, json: bool) -> None:
    """`bessemer verify name@version`: every byte, and the signature against the public key."""
    from bessemer.registry.store import open_release
    from bessemer.signatures import public_id, signer_of, trusted_key

    key = key or trusted_key()
    stored = open_release(reference, key)
    signer = public_id(key) if key else signer_of(stored.path)  # checked, or what the file claims
    if json:
        facts = {"release": stored.reference, "digest": stored.digest, "signed_by": signer, "trusted": bool(key)}
        print_json({"ok": True, **facts})
        return
    print(f"{stored.reference}: every byte is as its manifest says, digest {stored.digest}")
    if key:
        print(f"  signed by {key} (the key {public_id(key)[:12]})")
    elif signer:
        print(f"  the key {signer[:12]} is said to have signed it; that shows only against it: --key PUBLIC_KEY")
    else:
        print("  not signed: bessemer sign")
