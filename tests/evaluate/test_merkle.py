from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bessemer.evaluate.merkle import is_in, leaf_of, proof_of, root_of

SALT = bytes(range(32))
leaves_of_any_count = st.lists(st.binary(min_size=32, max_size=32), max_size=70)
some_leaves = st.lists(st.binary(min_size=32, max_size=32), min_size=1, max_size=70)


def oracle(leaves: list[bytes]) -> bytes:
    """The definition of RFC 6962, section 2.1: split at the largest power of two below the count."""
    if len(leaves) < 2:
        return leaves[0] if leaves else hashlib.sha256(b"").digest()
    k = 1
    while 2 * k < len(leaves):
        k *= 2
    return hashlib.sha256(b"\x01" + oracle(leaves[:k]) + oracle(leaves[k:])).digest()


def oracle_path(index: int, leaves: list[bytes]) -> list[bytes]:
    """The definition of RFC 6962, section 2.1.1."""
    if len(leaves) == 1:
        return []
    k = 1
    while 2 * k < len(leaves):
        k *= 2
    if index < k:
        return [*oracle_path(index, leaves[:k]), oracle(leaves[k:])]
    return [*oracle_path(index - k, leaves[k:]), oracle(leaves[:k])]


@given(leaves_of_any_count)
def test_the_root_is_that_of_the_rfc(leaves: list[bytes]) -> None:
    assert root_of(leaves) == oracle(leaves)


@given(some_leaves, st.data())
def test_every_leaf_has_a_proof_and_it_is_that_of_the_rfc(leaves: list[bytes], data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(leaves) - 1))
    path = proof_of(leaves, index)
    assert path == oracle_path(index, leaves)
    assert is_in(leaves[index], index, len(leaves), path, root_of(leaves))


@given(st.lists(st.binary(min_size=32, max_size=32), min_size=2, max_size=40, unique=True), st.data())
def test_a_proof_holds_for_nothing_else(leaves: list[bytes], data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(leaves) - 1))
    other = data.draw(st.integers(0, len(leaves) - 1).filter(lambda i: i != index))
    path, root, n = proof_of(leaves, index), root_of(leaves), len(leaves)
    flipped = bytearray(b"".join([leaves[index], *path, root]))
    flipped[data.draw(st.integers(0, len(flipped) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    leaf, *rest = (bytes(flipped[i : i + 32]) for i in range(0, len(flipped), 32))
    assert not is_in(leaf, index, n, rest[:-1], rest[-1])
    assert not is_in(leaves[other], index, n, path, root)
    assert not is_in(leaves[index], other, n, path, root)
    assert not is_in(leaves[index], index, n, path[:-1], root)
    assert not is_in(leaves[index], index, n, [*path, root], root)
    assert not is_in(leaves[index], index + n, n, path, root) and not is_in(leaves[index], -1, n, path, root)


def test_a_node_passes_for_no_leaf() -> None:
    leaves = [leaf_of(SALT, n) for n in range(4)]
    inner = [root_of(leaves[:2]), root_of(leaves[2:])]
    assert root_of(inner) == root_of(leaves)  # as hashes alone; a leaf is made with 0x00, so no item hashes to a node
    assert leaf_of(SALT, 0) != hashlib.sha256(b"\x01" + SALT + b"0").digest()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(), lambda v: st.lists(v) | st.dictionaries(st.text(), v)
)


@given(json_values, st.binary(min_size=32, max_size=32))
def test_a_leaf_is_the_hash_of_the_salt_and_one_spelling_of_the_item(item: Any, salt: bytes) -> None:
    text = json.dumps(item, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert leaf_of(salt, item) == hashlib.sha256(b"\x00" + salt + text.encode()).digest()
    assert leaf_of(salt, json.loads(json.dumps(item, indent=3))) == leaf_of(salt, item)


def test_equal_items_with_other_salts_have_other_leaves() -> None:
    assert leaf_of(SALT, {"answer": "yes"}) != leaf_of(SALT[::-1], {"answer": "yes"})
    with pytest.raises(AssertionError):
        leaf_of(b"short", {"answer": "yes"})
