"""A Merkle tree over salted items: one hash stands for all of them, and one item can be shown without the others.

Source: RFC 6962, section 2.1 (and RFC 9162, 2.1.3): a leaf is hashed with 0x00 in front and a node with 0x01, so that
no node passes for a leaf. Ours adds a salt to the leaf, because short items could be guessed from a bare hash.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from bessemer.files import canonical_json

SALT_BYTES = 32


def leaf_of(salt: bytes, item: Any) -> bytes:
    """SHA-256 of 0x00, the salt and the canonical JSON of the item."""
    assert len(salt) == SALT_BYTES, "a salt of another length could stand for another item"
    return hashlib.sha256(b"\0" + salt + canonical_json(item).encode()).digest()


def root_of(leaves: Sequence[bytes]) -> bytes:
    """The root of any number of leaves; of none it is the hash of nothing."""
    level = list(leaves)
    while len(level) > 1:
        level = _above(level)
    return level[0] if level else hashlib.sha256().digest()


def proof_of(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """What `is_in` needs to see that leaf `index` is in the tree: the neighbours on the way up, lowest first."""
    assert 0 <= index < len(leaves), f"no leaf {index} in {len(leaves)}"
    level, path = list(leaves), list[bytes]()
    while len(level) > 1:
        if index ^ 1 < len(level):
            path.append(level[index ^ 1])
        level, index = _above(level), index // 2
    return path


def is_in(leaf: bytes, index: int, n_leaves: int, path: Sequence[bytes], root: bytes) -> bool:
    """Whether `leaf` is number `index` of the `n_leaves` leaves under `root`."""
    if not 0 <= index < n_leaves:
        return False
    value, at, width = leaf, 0, n_leaves
    while width > 1:
        if index ^ 1 < width:  # else it has no neighbour and goes up as it is
            if at == len(path):
                return False
            value = _node(path[at], value) if index & 1 else _node(value, path[at])
            at += 1
        index, width = index // 2, (width + 1) // 2
    return at == len(path) and value == root


def _above(level: list[bytes]) -> list[bytes]:
    """Pairs become nodes; a last one without a neighbour goes up, which is the tree of the RFC for any count."""
    nodes = [_node(a, b) for a, b in zip(level[::2], level[1::2], strict=False)]
    return nodes + level[len(level) - len(level) % 2 :]


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\1" + left + right).digest()
