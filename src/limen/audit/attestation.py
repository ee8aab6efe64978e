"""A reviewer's statement about one access review, signed: who looked at which report about which policy, and why.

It is a note (c2sp.org/signed-note) like the log's checkpoints, by the same key, with a first line of its own: a note of
any other kind is no attestation. What it says of the reviewer is what the one who could sign said.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple, get_type_hints

import orjson

from limen.audit.note import NoteError, VerifierKey, open_note, sign_note
from limen.core.ports import Signer
from limen.protocol.jsonrpc import canonical

HEADER: Final = "limen.access/review/1\n"


class Attestation(NamedTuple):
    """Times are seconds since the epoch; digests are SHA-256 in hexadecimal.

    `report`: of the report's canonical JSON. `records`, `root`: the signed log it was drawn from. `since`, `until`: the
    period. `changes`: how many narrower rules it proposed.
    """

    by: str
    at: float
    reason: str
    policy: str
    catalog: str
    report: str
    records: int
    root: str
    since: float
    until: float
    changes: int


_TYPES: Final = get_type_hints(Attestation)


def sign(signer: Signer, attestation: Attestation) -> bytes:
    """The signed note. Raises what the signer raises."""
    return sign_note(signer, f"{HEADER}{canonical(attestation._asdict()).decode()}\n")


def read_attestation(note: bytes, key: VerifierKey) -> Attestation:
    """What a note says, if `key` signed it as an attestation. Raises NoteError."""
    text = open_note(note, key)
    if not text.startswith(HEADER):
        raise NoteError("is no attestation of an access review")
    line = text[len(HEADER) :].removesuffix("\n")
    try:
        data: Any = orjson.loads(line)
    except ValueError:
        raise NoteError("is not JSON") from None
    if type(data) is not dict or data.keys() != _TYPES.keys() or canonical(data).decode() != line:
        raise NoteError("has not the members of an attestation")
    if any(type(data[name]) not in ((int, float) if kind is float else (kind,)) for name, kind in _TYPES.items()):
        raise NoteError("has a member of the wrong type")
    return Attestation(**data)
