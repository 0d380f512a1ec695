"""The local registry: `releases/NAME/VERSION`, each version written once and never changed."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bessemer.errors import BessemerError
from bessemer.files import (
    check_files,
    digest_files,
    digest_of_files,
    exclusive,
    home,
    new_folder,
    read_json,
    tell,
    write_json,
)
from bessemer.signatures import (
    MANIFEST,
    RELEASE_FORMAT,
    SIGNATURE,
    check_signature,
    sign_folder,
    signer_of,
    signing_key,
    trusted_key,
)


@dataclass(frozen=True)
class StoredRelease:
    """A version in the registry. `digest` covers the bytes of every file but the manifest."""

    name: str
    version: int
    path: Path
    digest: str
    manifest: dict[str, Any]

    @property
    def reference(self) -> str:
        return f"{self.name}@{self.version}"


def folder() -> Path:
    return home() / "releases"


def versions(name: str) -> list[int]:
    """Complete versions of a name, oldest first."""
    found = (p.parent.name for p in (folder() / name).glob(f"*/{MANIFEST}"))
    return sorted(int(v) for v in found if v.isdigit())


def references() -> list[str]:
    """name@version of every complete release, by name and version, without reading any."""
    names = sorted(p.name for p in folder().glob("*") if p.is_dir()) if folder().exists() else []
    return [f"{name}@{version}" for name in names for version in versions(name)]


def find_release(reference: str) -> StoredRelease:
    """`name@version`, or `name` for its newest version; bytes are not checked.

    Raises BessemerError when there is none.
    """
    name, _, version = reference.partition("@")
    known = versions(name) if re.fullmatch(r"[a-z0-9][a-z0-9._-]*", name) else []
    if not known or (version and version not in map(str, known)):
        listed = ", ".join(references()) or "none yet; `bessemer run RECIPE` makes one"
        raise BessemerError(f"there is no release {reference!r}", where=str(folder()), fix=f"releases: {listed}")
    return _read(name, int(version) if version else known[-1])


def open_release(reference: str, trusted: Path | None = None) -> StoredRelease:
    """Find a release and check every byte of it against its manifest.

    trusted: public key that must have signed it; default: that of BESSEMER_TRUSTED_KEY, where it is set.
    Raises BessemerError naming the first file that differs, or a file that the manifest does not know, and when the
    signature is missing or another one.
    """
    release = find_release(reference)
    if key := trusted or trusted_key():
        check_signature(release.path, key)
        release = _read(release.name, release.version)  # the manifest that was signed
    return _checked(release)


def _checked(release: StoredRelease) -> StoredRelease:
    """Every byte is as the manifest says, and the manifest is of this name and version: a release that was put in the
    place of another one is none."""
    said = (release.manifest["name"], release.manifest["version"])
    if said != (release.name, release.version):
        raise BessemerError(
            f"this is {said[0]}@{said[1]}, in the place of {release.reference}",
            where=str(release.path),
            fix="it must not be served; restore the release from a copy",
        )
    check_files(
        release.path,
        release.manifest["files"],
        fix="this release is damaged and must not be served; restore it from a copy, or run the recipe again",
    )
    found = (p for p in release.path.rglob("*") if p.is_symlink() or not p.is_dir())
    names = {p.relative_to(release.path).as_posix() for p in found}
    unknown = names - release.manifest["files"].keys() - {MANIFEST, SIGNATURE}
    if unknown:
        raise BessemerError(
            f"{sorted(unknown)[0]} is in the folder but not in the manifest", where=str(release.path), fix="remove it"
        )
    return release


def add_release(name: str, files: dict[str, Path], facts: dict[str, Any]) -> StoredRelease:
    """Copy files into the next version of `name`, write its manifest, and sign all where there is a key to sign with.

    files: {name in the release: file}. facts: the manifest without name, version and files.
    """
    root, key = folder() / name, signing_key()
    with exclusive(folder() / f".{name}.lock", f"the release name {name}", wait=tell):
        version = _next_version(root)
        with new_folder(root / str(version)) as tmp:
            for target, source in files.items():
                shutil.copyfile(source, tmp / target)
            manifest = {"format": RELEASE_FORMAT, "name": name, "version": version, **facts, "files": digest_files(tmp)}
            write_json(tmp / MANIFEST, manifest)
            if key:
                sign_folder(tmp, key)
    return _read(name, version)


def _next_version(root: Path) -> int:
    """Above whatever lies there: a version that lost its manifest keeps its number."""
    return max((int(p.name) for p in root.glob("*") if p.name.isdecimal()), default=0) + 1


def sign_release(reference: str, key: Path) -> tuple[StoredRelease, str]:
    """Sign a version that was checked as `open_release` does; (the release, the key's id).

    Raises BessemerError for a release that is signed already: who wants another signer removes the file first.
    """
    release = _checked(find_release(reference))
    with exclusive(folder() / f".{release.name}.lock", f"the release name {release.name}", wait=tell):
        if signer := signer_of(release.path):
            raise BessemerError(
                f"signed already, by the key {signer[:12]}",
                where=release.reference,
                fix=f"check it: bessemer verify {release.reference} --key; to sign anew, remove "
                f"{release.path / SIGNATURE}",
            )
        return release, sign_folder(release.path, key)


def _read(name: str, version: int) -> StoredRelease:
    path = folder() / name / str(version)
    manifest = read_json(path / MANIFEST)
    try:
        digest = digest_of_files(manifest["files"])
        _ = manifest["name"], manifest["version"]
    except (AttributeError, KeyError, TypeError):
        raise BessemerError(
            "no manifest of a release", where=str(path / MANIFEST), fix="restore the release from a copy, or remove it"
        ) from None
    return StoredRelease(name, version, path, digest, manifest)
