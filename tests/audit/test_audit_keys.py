"""Signed notes and the key file. Known values: the example key and note of the Go checksum database's note package."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limen.adapters.keys import FileSigner
from limen.audit.note import NoteError, VerifierKey, open_checkpoint, parse_verifier_key, sign_checkpoint
from limen.core.faults import ConfigFault, DependencyFault

SECRET = "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz\n"
PUBLIC = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
TEXT = b"If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
SIGNATURE = "x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM="
NAME = "log.example/audit"
ROOT = bytes(range(32))


def write_key(path: Path, text: str = SECRET, mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


def test_known_key_and_signature(tmp_path: Path) -> None:
    import base64

    signer = FileSigner.open(write_key(tmp_path / "key"), "PeterNeumann", create=False)
    assert signer.verifier_key == PUBLIC
    key = parse_verifier_key(PUBLIC)
    assert key.text == PUBLIC
    assert base64.b64encode(key.id + signer.sign(TEXT)).decode() == SIGNATURE


def test_created_key_is_private_and_stays(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "audit"
    first = FileSigner.open(path, NAME)
    assert path.stat().st_mode & 0o777 == 0o600
    assert FileSigner.open(path, NAME).verifier_key == first.verifier_key
    assert (tmp_path / "keys" / "audit.pub").read_text() == first.verifier_key + "\n"
    assert sorted(item.name for item in path.parent.iterdir()) == ["audit", "audit.pub"]
    secret = path.read_text().strip().split("+", 4)[-1]  # base64 may hold a plus sign too
    assert secret not in repr(first)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o644, 0o660])
def test_key_others_may_use_is_refused(tmp_path: Path, mode: int) -> None:
    path = write_key(tmp_path / "key", mode=mode)
    with pytest.raises(ConfigFault, match="0600"):
        FileSigner.open(path, "PeterNeumann")
    path.chmod(0o400)
    assert FileSigner.open(path, "PeterNeumann").name == "PeterNeumann"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nonsense",
        SECRET.replace("c74f20a3", "c74f20a4"),
        SECRET.replace("AYEK", "AYEL"),
        SECRET.replace("+AYEK", "+BYEK"),
        SECRET[:-9] + "\n",
        "PRIVATE+KEY+PeterNeumann\n",
        "\udcff",
    ],
)
def test_malformed_key_is_refused_without_quoting_it(tmp_path: Path, text: str) -> None:
    path = tmp_path / "key"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    path.chmod(0o600)
    with pytest.raises(ConfigFault) as caught:
        FileSigner.open(path, "PeterNeumann", create=False)
    assert "AYE" not in str(caught.value)


def test_other_name_missing_file_and_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigFault, match="named"):
        FileSigner.open(write_key(tmp_path / "key"), "somebody.else")
    with pytest.raises(DependencyFault):
        FileSigner.open(tmp_path / "none", NAME, create=False)
    with pytest.raises(ConfigFault, match="name"):
        FileSigner.open(tmp_path / "none", "has space")
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(ConfigFault, match="regular"):
        FileSigner.open(tmp_path / "pipe", NAME)


@pytest.fixture
def signer(tmp_path: Path) -> FileSigner:
    return FileSigner.open(tmp_path / "signer", NAME)


def key_of(signer: FileSigner) -> VerifierKey:
    return VerifierKey(signer.name, signer.public_key)


def test_checkpoint_round_trip(signer: FileSigner) -> None:
    note = sign_checkpoint(signer, 20852163, ROOT)
    checkpoint = open_checkpoint(note, key_of(signer))
    assert (checkpoint.origin, checkpoint.size, checkpoint.root) == (NAME, 20852163, ROOT)
    assert note.decode().splitlines()[:2] == [NAME, "20852163"]


def test_unknown_signatures_are_skipped(signer: FileSigner, tmp_path: Path) -> None:
    witness = FileSigner.open(tmp_path / "witness", "witness.example")
    line = sign_checkpoint(witness, 1, ROOT).split(b"\n\n")[1]
    assert open_checkpoint(sign_checkpoint(signer, 7, ROOT) + line, key_of(signer)).size == 7


def test_every_flipped_bit_is_noticed(signer: FileSigner) -> None:
    note, key = sign_checkpoint(signer, 7, ROOT), key_of(signer)
    for place in range(len(note)):
        for bit in range(8):
            changed = bytearray(note)
            changed[place] ^= 1 << bit
            with pytest.raises(NoteError):
                open_checkpoint(bytes(changed), key)


def test_checkpoints_that_are_not_believed(signer: FileSigner, tmp_path: Path) -> None:
    key = key_of(signer)
    impostor = FileSigner.open(tmp_path / "impostor", NAME)
    with pytest.raises(NoteError, match="not signed by"):
        open_checkpoint(sign_checkpoint(impostor, 7, ROOT), key)
    other_name = FileSigner.open(tmp_path / "other", "other.example/audit")
    with pytest.raises(NoteError, match="not signed by"):
        open_checkpoint(sign_checkpoint(other_name, 7, ROOT), key)
    note = sign_checkpoint(signer, 7, ROOT)
    with pytest.raises(NoteError):
        open_checkpoint(note + note.split(b"\n\n")[1].replace(NAME.encode(), b"x y"), key)
    with pytest.raises(NoteError, match="too large"):
        open_checkpoint(note + bytes(70_000), key)


@pytest.mark.parametrize("text", ["log.example\n07\n{root}\n", "log.example\n-1\n{root}\n", "log.example\n1\nAAAA\n"])
def test_signed_nonsense_is_still_nonsense(tmp_path: Path, text: str) -> None:
    import base64

    signer = FileSigner.open(tmp_path / "key", "log.example")
    body = text.format(root=base64.b64encode(ROOT).decode()).encode()
    mark = base64.b64encode(key_of(signer).id + signer.sign(body)).decode()
    with pytest.raises(NoteError):
        open_checkpoint(body + f"\n— log.example {mark}\n".encode(), key_of(signer))
    elsewhere = f"elsewhere\n1\n{base64.b64encode(ROOT).decode()}\n".encode()
    mark = base64.b64encode(key_of(signer).id + signer.sign(elsewhere)).decode()
    with pytest.raises(NoteError, match="elsewhere"):
        open_checkpoint(elsewhere + f"\n— log.example {mark}\n".encode(), key_of(signer))


@pytest.mark.parametrize("text", ["", "a+b", PUBLIC.replace("c74f", "c74e"), PUBLIC[:-4], PUBLIC.replace("+AR", "+BR")])
def test_malformed_verifier_keys(text: str) -> None:
    with pytest.raises(NoteError):
        parse_verifier_key(text)


@given(st.binary(max_size=300))
def test_any_bytes_are_refused_properly(data: bytes) -> None:
    with pytest.raises(NoteError):
        open_checkpoint(data, parse_verifier_key(PUBLIC))
    with pytest.raises(NoteError):
        open_checkpoint(b"a\n1\nb\n\n\xe2\x80\x94 " + data, parse_verifier_key(PUBLIC))
