"""Composition of what issues tokens: settings, state and keys in, the token endpoint and its siblings out."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from limen.core.faults import ConfigFault, DependencyFault
from limen.core.ports import Sealer, TokenSigner
from limen.identity.dpop import NonceWanted, ProofRefused, Proofs
from limen.identity.revoked import Revocation, is_revoked, revoke
from limen.oauth.codes import Codes
from limen.oauth.consent import Consent
from limen.oauth.device import Ask, Devices, Knows, Start
from limen.oauth.families import Families
from limen.oauth.grants import Grants, Other
from limen.oauth.minting import Claims, Mint
from limen.oauth.model import User
from limen.oauth.recorder import Recorder
from limen.oauth.redeeming import Record, Redeemer, Ties
from limen.oauth.settings import TokenSettings
from limen.oauth.web import OAuthError, Visit
from limen.policy.buckets import MemoryCounter

if TYPE_CHECKING:
    from limen.config.model import Config
    from limen.storage import State


@dataclass(frozen=True, slots=True)
class Parts:
    """What the neighbours bring. `ask` and `start` are for devices only: judging what one asks for, and the way to
    consent and sign-in."""

    signer: TokenSigner
    sealer: Sealer
    clients: Knows
    holds: Callable[[str], bool]
    recorder: Recorder
    record: Record
    ask: Ask
    start: Start
    others: Mapping[str, Other] = field(default_factory=dict)  # grants of other rooms, by type


def open_grants(config: Config, state: State, parts: Parts) -> tuple[Grants, Devices | None]:
    """The token endpoint, and the ones for devices where the operator wants them. Raises ConfigFault."""
    if config.oauth is None:
        raise ConfigFault("nothing issues tokens without it", "oauth")
    settings, issuer, table = config.oauth.tokens, config.listen.url, state.oauth
    counter = state.counter or MemoryCounter()
    ties = Ties(
        holds=parts.holds,
        revoked=_revoked(issuer, config.oauth.provider.issuer, state),
        revoke=_revoke(issuer, state),
        possession=_possession(config, state),
        recorder=parts.recorder,
        record=parts.record,
        counter=counter,
    )
    codes, families = Codes(table, settings.code), Families(table, parts.sealer, settings, ties.revoke)
    claims = Claims(config.identity.groups_claim, config.identity.roles_claim)
    mint = Mint(issuer, parts.signer, settings.access, claims)
    devices = None
    if settings.device:
        devices = Devices(
            issuer, table, parts.clients, parts.ask, parts.start,
            counter=counter, recorder=parts.recorder, record=parts.record,
        )  # fmt: skip
    redeemer = Redeemer(codes, families, mint, ties, settings, devices=devices, alone=not state.remote)
    grants = Grants(
        issuer, codes, families, mint, redeemer, parts.clients, ties,
        key_set=parts.signer.key_set, devices=devices is not None, others=parts.others,
    )  # fmt: skip
    return grants, devices


def withdrawal(config: Config, state: State) -> Callable[[Consent], None]:
    """For commands: ends what was issued under a consent, on every replica within a second."""
    families = unopened_families(config, state)

    def withdraw(consent: Consent) -> None:
        families.withdraw(consent.id)

    return withdraw


def unopened_families(config: Config, state: State) -> Families:
    """The grants, to end them: their tokens stay sealed."""
    settings = config.oauth.tokens if config.oauth is not None else TokenSettings()
    return Families(state.oauth, Unopened(), settings, _revoke(config.listen.url, state))


class Unopened:
    """A vault whose key nobody needed: ending a grant opens nothing."""

    def seal(self, owner: str, place: str, secret: bytes) -> bytes:
        raise DependencyFault("vault", "not opened", retryable=False)

    def open(self, owner: str, place: str, sealed: bytes) -> bytes:
        raise DependencyFault("vault", "not opened", retryable=False)


def _revoked(issuer: str, provider: str, state: State) -> Callable[[User, str, str], bool]:
    """Whether a user (as the provider or as we name them), a client or a token was revoked, as the table has it now.

    Who signed in at a provider we no longer stand in front of is gone: its subjects may be other people's here.
    """

    def revoked(user: User, client: str, token: str) -> bool:
        if user.issuer != provider:
            return True
        wanted = [("user", name, user.subject) for name in ("", issuer, user.issuer)]
        wanted += [("client", name, client) for name in ("", issuer)]
        wanted += [("token", name, token) for name in ("", issuer) if token]
        return is_revoked(state.revocations, wanted)

    return revoked


def _revoke(issuer: str, state: State) -> Callable[[str, str, float], None]:
    """Puts it in force on every replica within a second."""

    def put(kind: str, name: str, until: float) -> None:
        record = Revocation(kind, name, issuer, "ended by the authorization server", "limen", time.time(), until)
        try:
            revoke(state.revocations, record)
        except ValueError as error:  # too many stand already
            raise DependencyFault("revocations", str(error)) from None
        if state.bus is not None:
            with suppress(DependencyFault):  # gateways that are not woken look by themselves within a quarter second
                state.bus.publish("revocations")

    return put


def _possession(config: Config, state: State) -> Callable[[Visit], Awaitable[str]]:
    """Which key a request for a token proves to have (RFC 9449 section 5)."""
    identity, url = config.identity, f"{config.listen.url}/oauth/token"
    proofs = Proofs(identity.dpop, identity.leeway, state.seen)

    async def prover(visit: Visit) -> str:
        values = [value.encode("latin-1", "replace") for value in visit.headers.get("dpop", ())]
        try:
            return await proofs.prover(values, visit.method, url)
        except ProofRefused as refused:
            raise OAuthError("invalid_dpop_proof", detail=str(refused)) from None
        except NonceWanted as wanted:
            raise OAuthError("use_dpop_nonce", headers=(("dpop-nonce", wanted.nonce),)) from None

    return prover
