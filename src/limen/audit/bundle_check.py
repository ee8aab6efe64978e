"""Checks an evidence bundle of Limen. One file, the standard library of Python 3.9 or newer, nothing else.

    python verify.py bundle.zip --key 'name+hash+key'

The key is the public key of the log, as `limen audit key` printed it BEFORE the incident: a key out of the bundle
proves nothing. Nor does a verify.py out of the bundle: take it from `limen incident verifier`, or compare its
SHA-256.

What is checked: the archive is exactly the canonical archive of its files; the manifest is signed by the key; every
file is in the manifest with its SHA-256, and none besides; every record is in its log, by an inclusion proof (RFC 6962)
to a checkpoint the log's key signed (c2sp.org/tlog-checkpoint); definitions, policies and catalogs hash to their names.
Ed25519 follows RFC 8032, section 5.1.7. Redacted records are proven by their hash; what they say is the signer's word.
"""

from __future__ import annotations

import argparse
import base64
import binascii
import hashlib
import json
import re
import struct
import sys
import zlib
from typing import Any

FORMAT = "limen.evidence/1"
MAX_BUNDLE, MAX_FILES = 512 << 20, 60_000
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}(/[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}){0,3}")
_HEX = re.compile(r"[0-9a-f]{64}")
_LOCAL, _CENTRAL, _END = struct.Struct("<4s5H3I2H"), struct.Struct("<4s6H3I5H2I"), struct.Struct("<4s4H2IH")
_DATE = 0x21  # 1980-01-01
_SUCCESSION = "limen log key/2"


class Wrong(Exception):
    """The bundle is not what was signed. The message says what is wrong."""


# The archive: files stored, in order of name, without dates. What has one form has no byte to be changed unseen.


def pack(files: dict[str, bytes]) -> bytes:
    """The canonical archive. Raises Wrong for names or sizes it cannot carry."""
    if len(files) > MAX_FILES or sum(map(len, files.values())) > MAX_BUNDLE:
        raise Wrong("more than a bundle may hold")
    body, index = bytearray(), bytearray()
    for name in sorted(files):
        if not _NAME.fullmatch(name):
            raise Wrong(f"not a name of a file in a bundle: {name[:80]!r}")
        raw, data = name.encode(), files[name]
        about = (0, 0, 0, _DATE, zlib.crc32(data), len(data), len(data), len(raw), 0)
        index += _CENTRAL.pack(b"PK\x01\x02", 20, 20, *about, 0, 0, 0, 0, len(body)) + raw
        body += _LOCAL.pack(b"PK\x03\x04", 20, *about) + raw + data
    end = _END.pack(b"PK\x05\x06", 0, 0, len(files), len(files), len(index), len(body), 0)
    return bytes(body + index + end)


def unpack(data: bytes) -> dict[str, bytes]:
    """The files of a canonical archive. Raises Wrong for any other: two files of one name, compressed ones, paths."""
    if len(data) > MAX_BUNDLE:
        raise Wrong("larger than a bundle may be")
    files: dict[str, bytes] = {}
    at = 0
    while data[at : at + 4] == b"PK\x03\x04":
        if at + _LOCAL.size > len(data) or len(files) >= MAX_FILES:
            raise Wrong("the archive is cut off, or has too many files")
        fields = _LOCAL.unpack_from(data, at)
        size, length = fields[7], fields[9]
        start = at + _LOCAL.size + length
        name = data[at + _LOCAL.size : start].decode("utf-8", "replace")
        if not _NAME.fullmatch(name) or name in files or start + size > len(data):
            raise Wrong(f"the archive holds a file it may not hold: {name[:80]!r}")
        files[name] = data[start : start + size]
        at = start + size
    if not files or pack(files) != data:
        raise Wrong("the archive is not the canonical one of its files: something was changed, added or cut off")
    return files


# Ed25519, RFC 8032: verification only, in exact integers. Slow and plain.

Point = tuple[int, int, int, int]  # of the twisted Edwards curve, extended coordinates
_P = 2**255 - 19
_L = 2**252 + 27742317777372353535851937790883648493
_D = -121665 * pow(121666, _P - 2, _P) % _P
_I = pow(2, (_P - 1) // 4, _P)


def _recover(y: int, sign: int) -> int | None:
    x2 = (y * y - 1) * pow(_D * y * y + 1, _P - 2, _P) % _P
    if x2 == 0:
        return None if sign else 0
    x = pow(x2, (_P + 3) // 8, _P)
    if (x * x - x2) % _P:
        x = x * _I % _P
    if (x * x - x2) % _P:
        return None
    return _P - x if x & 1 != sign else x


def _point(raw: bytes) -> Point | None:
    y = int.from_bytes(raw, "little")
    sign, y = y >> 255, y & ((1 << 255) - 1)
    x = _recover(y, sign) if y < _P else None
    return None if x is None else (x, y, 1, x * y % _P)


def _add(one: Point, other: Point) -> Point:
    a = (one[1] - one[0]) * (other[1] - other[0]) % _P
    b = (one[1] + one[0]) * (other[1] + other[0]) % _P
    c, d = 2 * one[3] * other[3] * _D % _P, 2 * one[2] * other[2] % _P
    e, f, g, h = b - a, d - c, d + c, b + a
    return (e * f % _P, g * h % _P, f * g % _P, e * h % _P)


def _times(number: int, point: Point) -> Point:
    total = (0, 1, 1, 0)
    while number:
        if number & 1:
            total = _add(total, point)
        point, number = _add(point, point), number >> 1
    return total


_BASE_Y = 4 * pow(5, _P - 2, _P) % _P
_BASE_X = _recover(_BASE_Y, 0) or 0
_BASE = (_BASE_X, _BASE_Y, 1, _BASE_X * _BASE_Y % _P)


def ed25519(public: bytes, message: bytes, signature: bytes) -> bool:
    """Whether this is the key's signature of the message."""
    if len(public) != 32 or len(signature) != 64:
        return False
    key, start = _point(public), _point(signature[:32])
    scalar = int.from_bytes(signature[32:], "little")
    if key is None or start is None or scalar >= _L:
        return False
    challenge = int.from_bytes(hashlib.sha512(signature[:32] + public + message).digest(), "little") % _L
    left, right = _times(scalar, _BASE), _add(start, _times(challenge, key))
    same_x = (left[0] * right[2] - right[0] * left[2]) % _P == 0
    return same_x and (left[1] * right[2] - right[1] * left[2]) % _P == 0


# Notes and trees


def _decoded(text: str) -> bytes:
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise Wrong("not base64") from None
    if base64.b64encode(raw).decode() != text:
        raise Wrong("not canonical base64")
    return raw


def read_key(text: str) -> tuple[str, bytes, bytes]:
    """Name, id and raw key of a verifier key (name+hash+key). Raises Wrong."""
    parts = text.strip().split("+", 2)
    raw = _decoded(parts[2]) if len(parts) == 3 else b""
    if len(raw) != 33 or raw[:1] != b"\x01":
        raise Wrong("a key reads name+hash+key, of Ed25519")
    mark = hashlib.sha256(parts[0].encode() + b"\n" + raw).digest()[:4]
    if parts[1] != mark.hex():
        raise Wrong("the key's hash does not belong to its name and key")
    return parts[0], mark, raw[1:]


def open_note(note: bytes, key_text: str) -> str:
    """The text of a note this key signed (c2sp.org/signed-note). Raises Wrong."""
    name, mark, public = read_key(key_text)
    try:
        text, blank, signatures = note.decode().rpartition("\n\n")
    except UnicodeDecodeError:
        raise Wrong("a note is not UTF-8") from None
    text += "\n"
    found = False
    for line in signatures[:-1].split("\n") if blank and signatures.endswith("\n") else ():
        parts = line.split(" ")
        if len(parts) != 3 or parts[0] != "—":
            raise Wrong("a signature line is malformed")
        raw = _decoded(parts[2])
        if parts[1] == name and raw[:4] == mark:
            if not ed25519(public, text.encode(), raw[4:]):
                raise Wrong("a signature does not verify")
            found = True
    if not found:
        raise Wrong(f"not signed by the key {name}+{mark.hex()}")
    return text


def included(leaf: bytes, index: int, size: int, proof: list[bytes], root: bytes) -> bool:
    """RFC 9162, section 2.1.3.2."""
    if not 0 <= index < size or any(len(step) != 32 for step in proof):
        return False
    node, last, current = index, size - 1, leaf
    for step in proof:
        if last == 0:
            return False
        if node & 1 or node == last:
            current = hashlib.sha256(b"\x01" + step + current).digest()
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            current = hashlib.sha256(b"\x01" + current + step).digest()
        node, last = node >> 1, last >> 1
    return last == 0 and current == root


# The bundle


def check(data: bytes, keys: list[str]) -> dict[str, Any]:
    """What the bundle is, once all of it was verified against the first key (and logs against any of them).

    Raises Wrong, and then nothing in it may be believed.
    """
    files = unpack(data)
    for needed in ("manifest.json", "manifest.sig"):
        if needed not in files:
            raise Wrong(f"{needed} is missing")
    digest = hashlib.sha256(files["manifest.json"]).hexdigest()
    if open_note(files["manifest.sig"], keys[0]) != f"{FORMAT}\n{digest}\n":
        raise Wrong("the manifest is not the one that was signed")
    manifest = json.loads(files["manifest.json"])
    stated = manifest["files"]
    for name, content in files.items():
        if name in ("manifest.json", "manifest.sig"):
            continue
        if name not in stated:
            raise Wrong(f"{name} is not in the manifest")
        if stated[name] != {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}:
            raise Wrong(f"{name} was changed")
    if missing := sorted(set(stated) - set(files)):
        raise Wrong(f"missing: {', '.join(missing[:5])}")
    for name, content in files.items():
        folder, _, rest = name.rpartition("/")
        stem = rest.partition(".")[0]
        if folder in ("definitions", "policies", "catalogs") and hashlib.sha256(content).hexdigest() != stem:
            raise Wrong(f"{name} does not hash to its name")
    return _check_logs(files, manifest, keys)


def _check_logs(files: dict[str, bytes], manifest: dict[str, Any], keys: list[str]) -> dict[str, Any]:
    records, redacted, vouched = 0, 0, []
    for log in manifest["logs"]:
        key = log["key"]
        known_keys, left = _log_keys(files, log)
        if not any(_names(one, known) for one in keys for known in known_keys):
            vouched.append(log["name"])
        head = open_note(files[f"{log['folder']}/checkpoint"], key).split("\n")
        if head[0] != read_key(key)[0] or not head[1].isdecimal():
            raise Wrong(f"the checkpoint of {log['name']} is of another log")
        size, root, before = int(head[1]), _decoded(head[2]), -1
        if key != known_keys[-1] and (key, size, root) != left:
            raise Wrong(f"the checkpoint of {log['name']} is by a key that had been replaced")
        for line in files[f"{log['folder']}/records.jsonl"].splitlines():
            row = json.loads(line)
            hidden = "leaf" in row
            if set(row) != {"index", "proof", *(("leaf", "redacted") if hidden else ("record",))}:
                raise Wrong("a row has other members than it may have")
            if hidden and not _HEX.fullmatch(row["leaf"]):
                raise Wrong("a hash is not one")
            leaf = bytes.fromhex(row["leaf"]) if hidden else hashlib.sha256(b"\x00" + row["record"].encode()).digest()
            if row["index"] <= before:
                raise Wrong(f"records of {log['name']} are not in order")
            if not included(leaf, row["index"], size, [bytes.fromhex(one) for one in row["proof"]], root):
                raise Wrong(f"record {row['index']} is not in the log {log['name']}")
            before, records, redacted = row["index"], records + 1, redacted + hidden
    if (records, redacted) != (manifest["records"], manifest["redacted"]):
        raise Wrong("the number of records is not the one that was signed")
    return {
        "incident": manifest["incident"], "title": manifest["title"], "created": manifest["created"],
        "files": len(files), "logs": len(manifest["logs"]), "records": records, "redacted": redacted,
        "vouched": vouched,
    }  # fmt: skip


def _log_keys(files: dict[str, bytes], log: dict[str, Any]) -> tuple[list[str], tuple[str, int, bytes]]:
    """The keys of a log, the one that signs it last; and the key before that, with the size and root of the log it left
    behind. Every one after the first was named by the one before it, and both signed that. Raises Wrong."""
    keys: list[str] = []
    left = ("", 0, b"")
    for number in range(1, log["keys"] + 1):
        note = files[f"{log['folder']}/keys/{number}"]
        lines = note.decode("utf-8", "replace").split("\n")
        if len(lines) < 10 or lines[0] != _SUCCESSION or not lines[3].isdecimal():
            raise Wrong(f"a note about the keys of {log['name']} is none")
        before, after, size = lines[1], lines[2], int(lines[3])
        for key in (before, after):
            open_note(note, key)
        keys = keys or [before]
        if read_key(before)[0] != read_key(after)[0] or size < left[1] or before != keys[-1] or after in keys:
            raise Wrong(f"the keys of {log['name']} do not follow each other")
        keys.append(after)
        left = (before, size, _decoded(lines[4]))
    keys = keys or [log["key"]]
    if log["key"] not in keys:
        raise Wrong(f"the key of {log['name']} is not one of its keys")
    return keys, left


def _names(given: str, key: str) -> bool:
    """Whether the key that was given is this one: of the log, or of all logs of that name, each with a suffix."""
    (name, _, public), (other, _, own) = read_key(given), read_key(key)
    return public == own and (other == name or other.startswith(name + "/"))


def main(arguments: list[str] | None = None) -> int:
    """Status 0: all of it is what was signed; 1: it is not; 2: it cannot be read."""
    parser = argparse.ArgumentParser(description="Verify an evidence bundle of Limen.")
    parser.add_argument("bundle")
    parser.add_argument("--key", action="append", required=True, help="name+hash+key, or @FILE; the signer's first")
    given = parser.parse_args(arguments)
    try:
        keys = []
        for one in given.key:
            if one.startswith("@"):
                with open(one[1:], encoding="utf-8") as file:
                    one = file.read(4096)
            keys.append(one.strip())
        with open(given.bundle, "rb") as file:
            data = file.read(MAX_BUNDLE + 1)
    except (OSError, ValueError) as error:
        sys.stderr.write(f"cannot be read: {error}\n")
        return 2
    try:
        found = check(data, keys)
    except Wrong as error:
        sys.stderr.write(f"NOT what was signed: {error}\n")
        return 1
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        sys.stderr.write(f"NOT what was signed: malformed ({type(error).__name__})\n")
        return 1
    sys.stdout.write(f"verified: incident {found['incident']}, {found['records']} records of {found['logs']} logs\n")
    if found["redacted"]:
        sys.stdout.write(f"{found['redacted']} records are redacted: in the log by hash, their words the signer's\n")
    for name in found["vouched"]:
        sys.stdout.write(f"the key of the log {name} was not given: the signer vouches for it\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
