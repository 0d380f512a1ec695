"""The server's token: who may ask, and where the token is kept."""

from __future__ import annotations

import ipaddress
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from bessemer.errors import BessemerError
from bessemer.files import home, make_secret, need_private

VARIABLE = "BESSEMER_TOKEN"
MIN_LENGTH = 16


@dataclass(frozen=True)
class Key:
    """A token and the shell expression that yields it. repr() shows no token."""

    token: str
    shell: str
    origin: str

    def __repr__(self) -> str:
        return f"Key(from {self.origin})"


def is_loopback(host: str) -> bool:
    """True for `localhost` and addresses that only this machine reaches."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def find_key(host: str, file: Path | None = None) -> Key:
    """The token from `file`, else from BESSEMER_TOKEN, else from `keys/serve.token`, made when it is missing.

    Raises BessemerError when a host that others reach is asked for without a token chosen by the user, when
    the token is too weak to be one, or when others may read its file.
    """
    if file is not None:
        return _read(file)
    if token := os.environ.get(VARIABLE):
        return Key(_checked(token, VARIABLE), f"${VARIABLE}", VARIABLE)
    if not is_loopback(host):
        raise BessemerError(
            f"{host} is reachable by other machines, so the token must be one that you chose",
            where="--host",
            fix=f"set {VARIABLE} or give --token-file, or listen on 127.0.0.1",
        )
    path = home() / "keys" / "serve.token"
    make_secret(path, secrets.token_urlsafe(32) + "\n")
    return _read(path)


def _read(path: Path) -> Key:
    need_private(path, "the token")
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise BessemerError(f"the token cannot be read ({error})", where=str(path)) from None
    return Key(_checked(text.strip(), str(path)), f"$(cat '{path}')", str(path))


def _checked(token: str, where: str) -> str:
    if len(token) < MIN_LENGTH or not all("!" <= c <= "~" for c in token):
        raise BessemerError(
            f"a token needs at least {MIN_LENGTH} characters and no spaces; this one has {len(token)}",
            where=where,
            fix="make one: python3 -c 'import secrets; print(secrets.token_urlsafe(32))'",
        )
    return token
