"""Attestations of access reviews: made, kept, listed, and asked for when the last one is too old."""

from __future__ import annotations

import secrets
import time
from typing import TYPE_CHECKING, Any, Final

from limen.audit.attestation import Attestation, read_attestation, sign
from limen.audit.note import NoteError, VerifierKey

if TYPE_CHECKING:
    from limen.config.model import Config

_DAY: Final = 86_400


def attest(config: Config, attestation: Attestation) -> None:
    """Sign it, keep it, and leave word of it for the log. Raises ConfigFault, DependencyFault."""
    from limen.opening import open_signer
    from limen.storage import State

    state = State.open(config)
    try:
        note = sign(open_signer(config), attestation)
        state.reviews.put(f"{time.time_ns():020d}.{secrets.token_hex(4)}", note)
        fields = {name: value for name, value in attestation._asdict().items() if name != "at"}
        state.tell("access_review", **fields)
    finally:
        state.close()


def kept(config: Config) -> list[dict[str, Any]]:
    """Every stored attestation, oldest first; one that is not ours is named and believed in nothing."""
    if not config.storage.path.exists():
        return []
    from limen.adapters.sqlite import SqliteTable

    key = _own_key(config)
    table = SqliteTable(config.storage.path, "reviews")
    try:
        return [_row(place, note, key) for place, note in table.scan("")]
    finally:
        table.close()


def _own_key(config: Config) -> VerifierKey | None:
    from limen.adapters.keys import FileSigner

    if not config.audit.key.exists():
        return None
    signer = FileSigner.open(config.audit.key, config.audit.name, create=False)
    return VerifierKey(signer.name, signer.public_key)


def _row(place: str, note: bytes, key: VerifierKey | None) -> dict[str, Any]:
    try:
        if key is None:
            raise NoteError("there is no signing key to check it with")
        found = read_attestation(note, key)
    except NoteError as fault:
        return {"id": place, "authentic": False, "problem": str(fault)}
    return {"id": place, "authentic": True, **found._asdict()}


def due(config: Config, now: float | None = None) -> tuple[bool, str] | None:
    """Whether the last review is recent enough, and the words for it; None where no interval is set."""
    every = config.policy.review_every
    if every is None:
        return None
    now = time.time() if now is None else now
    times = [(row["at"], row["by"]) for row in kept(config) if row["authentic"] and row["at"] <= now + _DAY]
    ask = f"`limen access review --attest` is due every {every} days"
    if not times:
        return False, f"never reviewed; {ask}"
    at, by = max(times)
    days = max(0, int((now - at) // _DAY))
    if days >= every:
        return False, f"last reviewed {days} days ago by {by}; {ask}"
    return True, f"last reviewed {days} days ago by {by}"
