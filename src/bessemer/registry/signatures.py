"""Who made a release: a signature beside its files, in the format of OpenSSF Model Signing 1.0.

It covers every file of the folder, the manifest too, so it needs nothing of Bessemer to be checked:

    model_signing verify key FOLDER --signature FOLDER/model.sig --public_key release.pub

Keys are the user's own (ECDSA on P-256, P-384 or P-521, PEM). Nothing is sent anywhere.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from bessemer.errors import BessemerError
from bessemer.files import need_private, write_text

SIGNATURE = "model.sig"
SIGNING_KEY = "BESSEMER_SIGNING_KEY"  # private key that signs every new release
PASSWORD = "BESSEMER_SIGNING_PASSWORD"  # noqa: S105 (a name): of an encrypted private key
TRUSTED_KEY = "BESSEMER_TRUSTED_KEY"  # public key: releases that it did not sign are not opened
MAKE_KEYS = (
    "make a pair: openssl ecparam -name prime256v1 -genkey -noout -out release.key; chmod 600 release.key; "
    "openssl ec -in release.key -pubout -out release.pub"
)
Made = TypeVar("Made")


def signing_key() -> Path | None:
    """The key that new releases are signed with, where there is to be one; checked before anything is spent."""
    if not (name := os.environ.get(SIGNING_KEY)):
        return None
    need_signer(Path(name))
    return Path(name)


def trusted_key() -> Path | None:
    name = os.environ.get(TRUSTED_KEY)
    return Path(name) if name else None


def need_signer(key: Path) -> None:
    """Raises BessemerError when nothing could be signed with the key, or when others may read it."""
    need_private(key, "the private key")
    _signing(key)


def sign_folder(folder: Path, key: Path) -> str:
    """Write the signature of all files in a folder; returns the key's id (sha256 of its public half).

    Raises BessemerError for a key that cannot sign.
    """
    need_private(key, "the private key")
    signing = _signing(key)
    with tempfile.TemporaryDirectory() as name:
        made = Path(name) / SIGNATURE
        signing.set_hashing_config(_hashing(folder)).sign(folder, made)
        write_text(folder / SIGNATURE, made.read_text())
    return signer_of(folder) or ""


def signer_of(folder: Path) -> str | None:
    """The id of the key that a folder claims to be signed with; None without a signature. Nothing is checked."""
    path = folder / SIGNATURE
    if not path.exists():
        return None
    try:
        return str(json.loads(path.read_text())["verificationMaterial"]["publicKey"]["hint"])
    except (KeyError, TypeError, ValueError):
        raise BessemerError("this is no signature of a key", where=str(path), fix="sign the release again") from None


def check_signature(folder: Path, key: Path) -> str:
    """The key's id when its private half signed exactly these files.

    Raises BessemerError when there is no signature, or one of another key or other files.
    """
    path = folder / SIGNATURE
    if not path.exists():
        raise BessemerError(
            f"not signed, and only what {key} signed is trusted", where=str(folder), fix="bessemer sign RELEASE --key"
        )
    verifying = _usable(key, lambda: _library().verifying.Config().use_elliptic_key_verifier(public_key=key))
    try:
        verifying.set_hashing_config(_hashing(folder)).verify(folder, path)
    except Exception as error:  # whatever a file that anyone may have written leads the parser to
        raise BessemerError(
            f"not signed by {key}: {_one_line(error)}",
            where=str(path),
            fix="do not use these files; get them again from who signed them, or name the right public key",
        ) from None
    return signer_of(folder) or ""


def _signing(key: Path) -> Any:
    # The library hands the password to one that takes bytes only.
    password = os.environ[PASSWORD].encode() if PASSWORD in os.environ else None
    return _usable(key, lambda: _library().signing.Config().use_elliptic_key_signer(private_key=key, password=password))


def _usable(key: Path, make: Callable[[], Made]) -> Made:
    try:
        return make()
    except AttributeError:  # of a key without a curve
        raise BessemerError("this is no elliptic-curve key", where=str(key), fix=MAKE_KEYS) from None
    except (OSError, ValueError, TypeError) as error:
        raise BessemerError(f"this key cannot be used: {_one_line(error)}", where=str(key), fix=MAKE_KEYS) from None


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
