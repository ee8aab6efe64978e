"""What `limen doctor oauth` finds on each leg of a sign-in, and how it asks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

import orjson

from limen.core.faults import DependencyFault
from limen.core.ports import Exchange, Fetched

State = Literal["ok", "failed", "unsure"]  # unsure: cannot be told from here
_SHOWN: Final = 200  # characters of what came instead


@dataclass(frozen=True, slots=True)
class Finding:
    """One check. `field` is the setting, member or header that is wrong, `remedy` what to do about it."""

    leg: str
    check: str
    state: State
    found: str
    field: str = ""
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Leg:
    """One leg of the way; makes findings about it."""

    name: str

    def ok(self, check: str, found: str) -> Finding:
        """It is as it should be."""
        return Finding(self.name, check, "ok", found[:_SHOWN])

    def failed(self, check: str, found: str, field: str, remedy: str) -> Finding:
        """It is not."""
        return Finding(self.name, check, "failed", found[: 2 * _SHOWN], field, remedy)

    def unsure(self, check: str, found: str, field: str = "", remedy: str = "") -> Finding:
        """It may or may not be."""
        return Finding(self.name, check, "unsure", found[: 2 * _SHOWN], field, remedy)


async def get(exchange: Exchange, url: str, accept: str = "application/json") -> Fetched | str:
    """The answer, or why there is none."""
    try:
        return await exchange.get(url, accept)
    except DependencyFault as fault:
        return str(fault)


async def post(exchange: Exchange, url: str, body: bytes, headers: dict[str, str]) -> Fetched | str:
    """The same for a POST."""
    try:
        return await exchange.post(url, body, headers)
    except DependencyFault as fault:
        return str(fault)


def members(answer: Fetched) -> dict[str, Any]:
    """The JSON object of an answer; empty for anything else."""
    try:
        document = orjson.loads(answer.body)
    except orjson.JSONDecodeError:
        return {}
    return document if isinstance(document, dict) else {}


def unreachable(leg: Leg, check: str, why: str, field: str, what: str) -> Finding:
    """Nothing answered: the remedy by what the network said."""
    text = why.casefold()
    if "certificate" in text or "ssl" in text:
        remedy = (
            f"The certificate of {what} does not hold here: expired, for another name, or of an authority this machine "
            "does not know (SSL_CERT_FILE names more). A proxy that opens TLS looks like this too."
        )
    elif "no address" in text or "gaierror" in text or "name" in text:
        remedy = f"The name of {what} does not resolve on this machine: compare it letter by letter, then ask DNS."
    elif "refused" in text:
        remedy = f"Nothing listens at {what}: is it running, is the port right, does a firewall refuse it?"
    elif "no answer" in text:
        remedy = f"{what} does not answer in time: a firewall drops the packets, or a proxy is needed to go out."
    elif "https is needed" in text:
        remedy = f"Plain http leaves this machine: {what} needs https."
    else:
        remedy = f"{what} cannot be reached from this machine."
    return leg.failed(check, why, field, remedy)
