"""`limen doctor oauth`: every leg of a sign-in, walked from this machine, with the failing field and what to do."""

from __future__ import annotations

import asyncio
import secrets
import sys
import time
from collections.abc import AsyncIterator, Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import typer

from limen.cli import oauth_front, oauth_provider, oauth_upstreams
from limen.cli.context import Misused
from limen.cli.oauth_legs import Finding, Leg, get, members, unreachable
from limen.cli.terminal import block, complain, emit, line
from limen.core.faults import ConfigFault, DependencyFault

if TYPE_CHECKING:
    from limen.config.model import Config
    from limen.core.ports import Exchange
    from limen.storage import State

_HERE: Final = Leg("here")
_METADATA: Final = Leg("client metadata")
_TABLES: Final = ("oauth", "consents", "vault", "attempts", "revocations")
_MARKS: Final = {"ok": "ok", "failed": "FAILED", "unsure": "?"}


def doctor_oauth(config: Config, server: str, client: str, provider_only: bool, as_json: bool) -> None:
    """Walk, tell, and end with status 1 if a leg failed. Raises Misused for a server there is none of."""
    findings = asyncio.run(_walk(config, server, client, provider_only, quiet=as_json))
    if as_json:
        emit([asdict(finding) for finding in findings])
    failed = [finding for finding in findings if finding.state == "failed"]
    if failed:
        complain(f"{len(failed)} of {len(findings)} checks failed; the first: {failed[0].leg}, {failed[0].field}")
        raise typer.Exit(1)


def print_entra_setup(config: Config, as_json: bool) -> None:
    """The registration as a shell script, or its Graph document as JSON."""
    from limen.cli.entra_setup import registration, script

    if as_json:
        emit(registration(callback(config)))
    else:
        block(script(callback(config)))


async def _walk(config: Config, server: str, client: str, provider_only: bool, *, quiet: bool) -> list[Finding]:
    findings = []
    async for finding in legs(config, server, client, provider_only):
        findings.append(finding)
        if not quiet:
            _tell(finding)
        elif sys.stderr.isatty():
            complain(f"{finding.leg}: {finding.check}")
    return findings


def _tell(finding: Finding) -> None:
    field = f" [{finding.field}]" if finding.field else ""
    text = f"{_MARKS[finding.state]:<7}{finding.leg}: {finding.check}{field}: {finding.found}"
    line(text, red=finding.state == "failed")
    if finding.remedy:
        line(f"       -> {finding.remedy}")


async def legs(config: Config, server: str, client: str, provider_only: bool) -> AsyncIterator[Finding]:
    """All checks, in the order a sign-in needs them."""
    from limen.adapters.public_http import PublicHttp
    from limen.opening import resources

    routes = resources(config)
    if server and server not in routes:
        raise Misused(f"no server or bundle named {server!r}: {', '.join(name for name in routes if name)}")
    exchange = PublicHttp(private=True, timeout=10.0, max_size=512 << 10)
    if not provider_only:
        for finding in await asyncio.to_thread(lambda: list(here(config))):
            yield finding
        named = config.identity.authorization_servers
        chosen = [routes[server]] if server else list(routes.values())
        async for finding in oauth_front.look(config.listen.url, chosen, config.oauth is not None, exchange, named):
            yield finding
    if config.oauth is not None:
        async for finding in oauth_provider.look(config.oauth.provider, callback(config), exchange):
            yield finding
    elif provider_only:
        raise Misused("there is no `oauth` section: clients sign in at the issuers of `identity.issuers` themselves")
    if not provider_only:
        behind = {name: one for name, one in config.servers.items() if server in ("", name)}
        async for finding in oauth_upstreams.look(behind, PublicHttp(timeout=10.0), exchange):
            yield finding
    if client:
        yield await client_metadata(client, PublicHttp(timeout=10.0))


def callback(config: Config) -> str:
    """The address to register at the provider."""
    return f"{config.listen.url}/oauth/callback"


def here(config: Config) -> Iterable[Finding]:
    """What the endpoints need of this machine: tables, keys that sign, the vault."""
    from limen.storage import State

    try:
        state = State.open(config)
    except (DependencyFault, ConfigFault) as fault:
        yield _HERE.failed("tables", str(fault), "storage", "The store cannot be used: `limen doctor`.")
        return
    try:
        yield _tables(state)
        if config.oauth is not None:
            yield _signing(config)
            yield _vault(config, state)
    finally:
        state.close()


def _tables(state: State) -> Finding:
    """Each table takes a record once and gives it back."""
    for name in _TABLES:
        table, key, value = getattr(state, name), f"doctor/{secrets.token_hex(8)}", secrets.token_bytes(8)
        try:
            first = table.swap(key, None, value, time.time() + 60)
            good = (
                first and table.get(key) == value and not table.swap(key, None, value) and table.swap(key, value, None)
            )
        except DependencyFault as fault:
            text = "The store cannot be written to: disk full, read only, or the database is down."
            return _HERE.failed("tables", f"{name}: {fault}", "storage", text)
        if not good:
            text = "Compare-and-set does not hold: codes could be used twice. Is the file on a network file system?"
            return _HERE.failed("tables", name, "storage", text)
    return _HERE.ok("tables", ", ".join(_TABLES))


def _signing(config: Config) -> Finding:
    from limen.opening import TOKEN_KEYS, open_token_keys

    place = config.storage.path.with_name(TOKEN_KEYS)
    if not place.exists():
        return _HERE.ok("signing keys", f"{place}: made at first use")
    try:
        keys = open_token_keys(config)
        keys.sign("at+jwt", {"doctor": True})
    except (ConfigFault, DependencyFault) as fault:
        text = "Only the user Limen runs as may read the keys (chmod 700 the directory, 600 the files); restore a lost "
        text += "file from the backup: tokens signed with it are good only as long as it is published."
        return _HERE.failed("signing keys", str(fault), str(place), text)
    return _HERE.ok("signing keys", str(place))


def _vault(config: Config, state: State) -> Finding:
    from limen.credentials.vault import in_use
    from limen.opening import open_vault

    try:
        if not in_use(state.vault):
            return _HERE.ok("vault", "empty: its first key is made when it is used")
        open_vault(config, state)
    except (ConfigFault, DependencyFault) as fault:
        text = "The key-encryption key does not open the vault: restore it beside these records, or see docs/vault.md."
        return _HERE.failed("vault", str(fault), "vault.keys", text)
    return _HERE.ok("vault", "its keys open")


async def client_metadata(url: str, exchange: Exchange) -> Finding:
    """A client's metadata document, fetched as the authorization server would (public addresses, no redirects)."""
    answer = await get(exchange, url)
    if isinstance(answer, str):
        return unreachable(_METADATA, "document", answer, "client_id", urlsplit(url).hostname or url)
    kind = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
    document = members(answer)
    if 300 <= answer.status < 400:
        text = "Redirects are not followed: the document has to be at exactly this address."
        return _METADATA.failed("document", f"status {answer.status}", "client_id", text)
    if answer.status != 200 or not (kind == "application/json" or kind.endswith("+json")) or not document:
        text = "Whoever publishes the client has to answer 200 with a JSON object of type application/json."
        return _METADATA.failed("document", f"status {answer.status}, {kind or 'no type'}", "content-type", text)
    if document.get("client_id") != url:
        text = "The document has to name exactly its own address, byte for byte, as client_id."
        return _METADATA.failed("document", f"client_id is {document.get('client_id')!r}", "client_id", text)
    redirects = document.get("redirect_uris")
    if not isinstance(redirects, list) or not redirects or not document.get("client_name"):
        field = "redirect_uris" if document.get("client_name") else "client_name"
        return _METADATA.failed("document", f"{field} is missing", field, "The client's publisher has to add it.")
    return _METADATA.ok("document", f"{document['client_name']}: {', '.join(map(str, redirects))}")
