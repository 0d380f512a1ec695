"""Who made a release: a signature beside its files, in the format of OpenSSF Model Signing 1.0.

It covers every file of the folder, the manifest too, so it needs nothing of Bessemer to be checked:

    model_signing verify key FOLDER --signature FOLDER/model.sig --public_key release.pub

Keys are the user's own (ECDSA on P-256, P-384 or P-521, PEM). Nothing is sent anywhere.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
import tempfile
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, TypeVar

from bessemer.errors import BessemerError
from bessemer.files import fsync_folder, need_private, read_json, write_text

RELEASE_FORMAT = "bessemer.release/1"
MANIFEST = "manifest.json"
SIGNATURE = "model.sig"
SIGNING_KEY = "BESSEMER_SIGNING_KEY"  # private key that signs every new release
PASSWORD = "BESSEMER_SIGNING_PASSWORD"  # noqa: S105 (a name): of an encrypted private key
TRUSTED_KEY = "BESSEMER_TRUSTED_KEY"  # public key: releases that it did not sign are not opened
UNREADABLE = "unreadable"
MAKE_KEYS = (
    "make a pair: openssl ecparam -name prime256v1 -genkey -noout -out release.key; chmod 600 release.key; "
    "openssl ec -in release.key -pubout -out release.pub"
)
Made = TypeVar("Made")


def signing_key() -> Path | None:
    """The key that new releases are signed with, where there is to be one; checked before anything is spent."""
    key = _named(SIGNING_KEY)
    if key:
        signer_id(key)
    return key


def trusted_key() -> Path | None:
    """The public key that BESSEMER_TRUSTED_KEY names."""
    return _named(TRUSTED_KEY)


def child_env() -> dict[str, str]:
    """The environment for processes that sign nothing."""
    return {k: v for k, v in os.environ.items() if k not in {SIGNING_KEY, PASSWORD}}


def signer_id(key: Path) -> str:
    """sha256 of a private key's public half (PEM). Raises BessemerError when nothing can be signed with it, or when
    others may read it."""
    return _signer(key)[1]


def sign_folder(folder: Path, key: Path) -> str:
    """Write the signature of all files in a folder; returns the key's id.

    Raises BessemerError for a key that cannot sign. The folder gets a whole signature or none.
    """
    signing, signer = _signer(key)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".tmp-signature-") as name:
        made = Path(name) / SIGNATURE
        signing.set_hashing_config(_hashing(folder)).sign(folder, made)
        write_text(made, made.read_text())  # on the disk before it has its name
        made.replace(folder / SIGNATURE)
        fsync_folder(folder)
    return signer


def signer_of(folder: Path) -> str | None:
    """The id of the key that a folder claims to be signed with; None without a signature. Nothing is checked."""
    path = folder / SIGNATURE
    if not path.exists():
        return None
    try:
        claimed = json.loads(path.read_text())["verificationMaterial"]["publicKey"]["hint"]
        return claimed if re.fullmatch("[0-9a-f]{64}", claimed) else UNREADABLE
    except (OSError, KeyError, TypeError, ValueError, RecursionError):
        return UNREADABLE  # a list of releases goes on


def check_signature(folder: Path, key: Path) -> None:
    """Raises BessemerError unless the private half of this public key signed exactly these files."""
    path, library = folder / SIGNATURE, _library()
    verifying = _usable(
        key,
        lambda: library.verifying.Config().use_elliptic_key_verifier(public_key=key),
        fix=f"name the public key (PEM) of who signs your releases: --trust, --key or {TRUSTED_KEY}",
    )
    if not path.exists():
        raise BessemerError(
            f"not signed, and only what {key} signed is trusted", where=str(folder), fix="bessemer sign RELEASE --key"
        )
    try:
        with redirect_stdout(sys.stderr):  # it prints warnings
            verifying.set_hashing_config(_hashing(folder)).verify(folder, path)
    except Exception as error:  # whatever a file that anyone may have written leads the parser to
        reason = _one_line(error).replace("\\", "").partition(": Expected ")[0]  # digests as bytes follow
        raise BessemerError(
            f"not signed by {key}: {reason}",
            where=str(path),
            fix="do not use these files; get them again from who signed them, or name the right public key",
        ) from None


def public_id(key: Path) -> str:
    """The id of a public key, as `signer_of` has it of what a signature claims."""
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    return _id(load_pem_public_key(key.read_bytes()))


def need_signed(folder: Path) -> None:
    """Raises BessemerError for the folder of a release that the trusted key did not sign, where one is set."""
    if (key := trusted_key()) and (folder / MANIFEST).is_file():
        about = read_json(folder / MANIFEST)
        if isinstance(about, dict) and about.get("format") == RELEASE_FORMAT:
            check_signature(folder, key)


def _named(variable: str) -> Path | None:
    name = os.environ.get(variable)
    if name is None:
        return None
    if not name.strip():  # an unset variable of some script must not switch a check off
        raise BessemerError("it is set but empty", where=variable, fix="name the key's file, or unset it")
    return Path(name).expanduser()


def _signer(key: Path) -> tuple[Any, str]:
    """(what signs with a private key, the key's id)."""
    need_private(key, "the private key")
    library = _library()
    password = os.environ[PASSWORD].encode() if os.environ.get(PASSWORD) else None
    signing = _usable(key, lambda: library.signing.Config().use_elliptic_key_signer(private_key=key, password=password))
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    return signing, _id(load_pem_private_key(key.read_bytes(), password).public_key())


def _usable(key: Path, make: Callable[[], Made], fix: str = "") -> Made:
    from cryptography.exceptions import UnsupportedAlgorithm

    fix = fix or f"name an ECDSA key (--key or {SIGNING_KEY}), its password in {PASSWORD} if it has one; {MAKE_KEYS}"
    try:
        return make()
    except AttributeError:  # of a key without a curve
        raise BessemerError("this is no elliptic-curve key", where=str(key), fix=fix) from None
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise BessemerError(f"this key cannot be used: {_one_line(error)}", where=str(key), fix=fix) from None


def _id(public: Any) -> str:
    """As the format has it: sha256 of the key in PEM."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return hashlib.sha256(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def _hashing(folder: Path) -> Any:
    """Every file but the signature: those that belong to git, too, which the library would leave out."""
    return _library().hashing.Config().set_ignored_paths(paths=[folder / SIGNATURE], ignore_git_paths=False)


def _library() -> Any:  # the types of an optional package
    try:
        import model_signing
    except ImportError as error:
        raise BessemerError(
            f"signatures need the Python package {error.name!r}", fix="pip install 'bessemer[sign]'"
        ) from None
    return model_signing


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
