"""Releases signed with keys of one's own, checked here and by the reference implementation's own command."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from bessemer.errors import BessemerError
from bessemer.families.fetch import resolve
from bessemer.launch.manifest import write_manifest
from bessemer.launch.place import Place
from bessemer.launch.slurm import submit
from bessemer.recipe.load import load_recipe
from bessemer.registry import store
from bessemer.run import run_recipe
from bessemer.signatures import (
    PASSWORD,
    SIGNATURE,
    SIGNING_KEY,
    TRUSTED_KEY,
    check_signature,
    child_env,
    signer_of,
)
from bessemer.track.screen import Screen
from tests.cli.conftest import Done, here
from tests.registry.test_store import add, flip
from tests.tiny import make_tiny_release

__all__ = ["here"]
Here = Callable[..., Done]


def write_keys(folder: Path, name: str = "release", key: Any = None, lock: KeySerializationEncryption | None = None):
    """(private, public) PEM files."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    private, public = folder / f"{name}.key", folder / f"{name}.pub"
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, lock or NoEncryption()))
    private.chmod(0o600)
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return private, public


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    return write_keys(tmp_path)


@pytest.fixture
def signed(tmp_path: Path, keys: tuple[Path, Path], bessemer_home: Path) -> store.StoredRelease:
    add(tmp_path, "house")
    return store.sign_release("house@1", keys[0])[0]


def test_signed_later_or_when_it_is_made(
    tmp_path: Path, keys: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, bessemer_home: Path
) -> None:
    plain = add(tmp_path, "house")
    with pytest.raises(BessemerError, match="not signed"):
        store.open_release("house@1", keys[1])
    _, signer = store.sign_release("house@1", keys[0])
    assert store.open_release("house@1", keys[1]) == plain  # a signature changes neither digest nor manifest
    monkeypatch.setenv(SIGNING_KEY, str(keys[0]))
    made = add(tmp_path, "house", "second")
    assert store.open_release("house@2", keys[1]) == made
    assert signer_of(made.path) == signer == signer_of(plain.path)
    assert list(made.path.parent.glob(".*")) == []


def test_the_reference_implementation_agrees(signed: store.StoredRelease, keys: tuple[Path, Path]) -> None:
    command = [sys.executable, "-m", "model_signing", "verify", "key", str(signed.path), "--public_key", str(keys[1])]
    command += ["--signature", str(signed.path / SIGNATURE)]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    flip(signed.path / "config.json")
    assert subprocess.run(command, capture_output=True, check=False).returncode != 0


def rewrite_manifest(path: Path) -> None:
    """What someone does who may write the folder: the manifest fits the changed files again."""
    manifest = json.loads((path / store.MANIFEST).read_text())
    (path / "config.json").write_text("{}")
    (path / store.MANIFEST).write_text(json.dumps(manifest | {"files": store.digest_files(path)}))


def link_it(path: Path) -> None:
    (path / "config.json").rename(path.parent / "config.json")
    (path / "config.json").symlink_to(path.parent / "config.json")


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (lambda p: flip(p / "model.safetensors"), "Hash mismatch for 'model.safetensors'"),
        (lambda p: flip(p / store.MANIFEST), "Hash mismatch for 'manifest.json'"),
        (lambda p: (p / "config.json").unlink(), "Missing files"),
        (lambda p: (p / "more.json").write_text("{}"), "Extra files .*more.json"),
        (lambda p: (p / ".gitignore").write_text("x"), "Extra files .*gitignore"),
        (lambda p: (p / SIGNATURE).unlink(), "not signed, and only what"),
        (lambda p: (p / SIGNATURE).write_text("{}"), "not signed by"),
        (lambda p: (p / SIGNATURE).write_text("[" * 100_000), "not signed by"),
        (lambda p: (p / SIGNATURE).write_bytes(b"\xff\xfe"), "not signed by"),
        (rewrite_manifest, "Hash mismatch for 'config.json'"),
        (link_it, "it is a symlink"),
    ],
)
def test_whatever_changes_is_noticed(
    signed: store.StoredRelease, keys: tuple[Path, Path], damage: Callable[[Path], object], what: str
) -> None:
    damage(signed.path)
    with pytest.raises(BessemerError, match=what):
        check_signature(signed.path, keys[1])


@pytest.mark.parametrize("signed_at_all", [True, False])
def test_a_key_that_is_none_is_not_the_release_s_fault(
    signed: store.StoredRelease, tmp_path: Path, signed_at_all: bool
) -> None:
    if not signed_at_all:
        (signed.path / SIGNATURE).unlink()
    (tmp_path / "text").write_text("no key")
    for key in (tmp_path / "none", tmp_path / "text"):
        with pytest.raises(BessemerError, match="name the public key"):
            check_signature(signed.path, key)


def test_a_signed_release_in_the_place_of_another_is_none(
    signed: store.StoredRelease, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    newer = add(tmp_path, "house", "second")
    shutil.rmtree(newer.path)
    shutil.copytree(signed.path, newer.path)
    with pytest.raises(BessemerError, match="this is house@1, in the place of house@2"):
        store.open_release("house@2", keys[1])
    assert store.open_release("house@1", keys[1])


def test_the_id_is_that_of_the_key_not_what_the_file_claims(
    signed: store.StoredRelease, keys: tuple[Path, Path], here: Here
) -> None:
    signer = signer_of(signed.path)
    claimed = json.loads((signed.path / SIGNATURE).read_text())
    for hint, shown in ((None, "unreadable"), ("[red]", "unreadable"), ("0" * 64, "0" * 64)):
        claimed["verificationMaterial"]["publicKey"]["hint"] = hint
        (signed.path / SIGNATURE).write_text(json.dumps(claimed))
        assert signer_of(signed.path) == shown
        if hint is None:  # older signatures have none; the library prints that
            told = json.loads(here("verify", "house@1", "--key", keys[1], "--json").out)
            assert told["signed_by"] == signer
            continue
        with pytest.raises(BessemerError, match="not signed by"):
            check_signature(signed.path, keys[1])


def test_a_release_is_not_started_from_by_its_folder_either(
    tiny_model: Path, bessemer_home: Path, keys: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_tiny_release(tiny_model, bessemer_home)
    assert resolve(str(path)).digest
    monkeypatch.setenv(TRUSTED_KEY, str(keys[1]))
    with pytest.raises(BessemerError, match="not signed"):
        resolve(str(path))
    assert resolve(str(tiny_model)).digest  # no release
    store.sign_release("tiny@1", keys[0])
    assert resolve(str(path)).digest


def test_with_a_trusted_key_one_can_still_sign(
    tmp_path: Path, keys: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, bessemer_home: Path
) -> None:
    add(tmp_path, "house")
    monkeypatch.setenv(TRUSTED_KEY, str(keys[1]))
    store.sign_release("house@1", keys[0])
    assert store.open_release("house@1")


def test_a_signature_that_cannot_be_written_leaves_nothing(
    tmp_path: Path, keys: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, bessemer_home: Path
) -> None:
    made = add(tmp_path, "house")
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        store.sign_release("house@1", keys[0])
    monkeypatch.undo()
    monkeypatch.setenv("BESSEMER_HOME", str(bessemer_home))
    assert store.open_release("house@1") == made and [p.name for p in made.path.parent.iterdir()] == ["1"]


def test_variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, bessemer_home: Path) -> None:
    add(tmp_path, "house")
    for name in (TRUSTED_KEY, SIGNING_KEY):
        monkeypatch.setenv(name, "")
        with pytest.raises(BessemerError, match="it is set but empty") as caught:
            store.open_release("house@1") if name == TRUSTED_KEY else add(tmp_path, "house", "second")
        assert caught.value.where == name
        monkeypatch.delenv(name)
    monkeypatch.setenv(SIGNING_KEY, "x")
    monkeypatch.setenv(PASSWORD, "x")
    assert not {SIGNING_KEY, PASSWORD} & child_env().keys() and "PATH" in child_env()


def test_without_the_package_that_is_what_is_said(
    signed: store.StoredRelease, keys: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(tmp_path, "house", "second")
    monkeypatch.setitem(sys.modules, "model_signing", None)
    for do in (lambda: store.open_release("house@1", keys[1]), lambda: store.sign_release("house@2", keys[0])):
        with pytest.raises(BessemerError) as caught:
            do()
        assert "bessemer[sign]" in caught.value.fix


def test_a_key_that_cannot_sign_is_refused_before_anything_is_planned(
    tmp_path: Path, keys: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, bessemer_home: Path
) -> None:
    recipe = load_recipe("recipes/demo.yaml")
    monkeypatch.setenv(SIGNING_KEY, str(tmp_path / "none"))
    for do in (run_recipe, lambda r, s: submit(r, Place(), s), lambda r, s: write_manifest(r, Place(), s, tmp_path)):
        with pytest.raises(BessemerError, match="the private key cannot be read"):
            do(recipe, Screen(quiet=True))
    monkeypatch.setenv(SIGNING_KEY, str(keys[0]))
    with pytest.raises(BessemerError, match="would not be signed"):  # no key goes into a manifest
        write_manifest(recipe, Place(), Screen(quiet=True), tmp_path / "job.yaml")
    assert not (bessemer_home / "runs").exists() and not (tmp_path / "job.yaml").exists()


def test_only_the_trusted_key_counts(
    signed: store.StoredRelease, keys: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stranger, its = write_keys(tmp_path, "stranger", ec.generate_private_key(ec.SECP384R1()))
    with pytest.raises(BessemerError, match="not signed by"):
        store.open_release("house@1", its)
    with pytest.raises(BessemerError, match="signed already"):
        store.sign_release("house@1", stranger)
    (signed.path / SIGNATURE).unlink()
    store.sign_release("house@1", stranger)
    assert store.open_release("house@1", its)
    monkeypatch.setenv(TRUSTED_KEY, str(keys[1]))
    with pytest.raises(BessemerError, match="not signed by"):
        store.open_release("house@1")
    with pytest.raises(BessemerError, match="signed already"):  # nor is it signed over
        store.sign_release("house@1", keys[0])


def test_an_encrypted_key_needs_its_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add(tmp_path, "house")
    private, public = write_keys(tmp_path, lock=BestAvailableEncryption(b"a long one"))
    for wrong in (None, "another"):
        if wrong:
            monkeypatch.setenv(PASSWORD, wrong)
        with pytest.raises(BessemerError, match="this key cannot be used"):
            store.sign_release("house@1", private)
    monkeypatch.setenv(PASSWORD, "a long one")
    store.sign_release("house@1", private)
    assert store.open_release("house@1", public)


def test_keys_that_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bessemer_home: Path) -> None:
    add(tmp_path, "house")
    private, _ = write_keys(tmp_path)
    rsa_key, _ = write_keys(tmp_path, "rsa", rsa.generate_private_key(65537, 2048))
    koblitz, _ = write_keys(tmp_path, "koblitz", ec.generate_private_key(ec.SECP256K1()))
    text = tmp_path / "text.key"
    text.write_text("no key")
    text.chmod(0o600)
    for key, what in (
        (rsa_key, "no elliptic-curve key"),
        (koblitz, "secp256k1"),
        (text, "cannot be used"),
        (tmp_path / "none", "cannot be read"),
    ):
        with pytest.raises(BessemerError, match=what):
            store.sign_release("house@1", key)
    private.chmod(0o640)
    with pytest.raises(BessemerError, match="other users may read the private key"):
        store.sign_release("house@1", private)
    private.chmod(0o600)
    assert not (store.find_release("house@1").path / SIGNATURE).exists()
    store.sign_release("house@1", private)
    with pytest.raises(BessemerError, match="cannot be used"):
        store.open_release("house@1", private)  # not a public key
    monkeypatch.setenv(SIGNING_KEY, str(rsa_key))
    with pytest.raises(BessemerError, match="no elliptic-curve key"):
        add(tmp_path, "house", "second")
    assert store.versions("house") == [1]


def test_the_commands(signed: store.StoredRelease, keys: tuple[Path, Path], tmp_path: Path, here: Here) -> None:
    add(tmp_path, "house", "second")
    assert "not signed" in here("verify", "house@2").out
    assert "only against it" in here("verify", "house@1").out
    done = here("verify", "house@2", "--key", keys[1])
    assert done.code == 4 and "not signed" in done.err and done.out == ""
    done = here("sign", "house@2", "--key", keys[0])
    assert done.code == 0 and "is signed by the key" in done.out
    facts = json.loads(here("verify", "house@2", "--key", keys[1], "--json").out)
    assert facts == {
        "ok": True,
        "release": "house@2",
        "digest": store.find_release("house@2").digest,
        "signed_by": signer_of(signed.path),
        "trusted": True,
    }
    assert here("verify", "house@2", "--head", "0" * 64).code == 4
    assert "only releases are signed" in here("verify", str(tmp_path), "--key", keys[1]).err
    listed = json.loads(here("releases", "--json").out)
    assert [r["signed_by"] for r in listed] == [facts["signed_by"]] * 2
    flip(signed.path / "config.json")
    assert here("verify", "house@1", "--key", keys[1]).code == 4
    (signed.path / SIGNATURE).write_text("{}")
    assert [r["signed_by"] for r in json.loads(here("releases", "--json").out)] == ["unreadable", facts["signed_by"]]
