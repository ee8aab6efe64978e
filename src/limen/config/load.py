"""YAML -> Config: included client files, references, and errors that say file, line, column and key."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any, Final

from pydantic import ValidationError

from limen.audit.follow_settings import Follower
from limen.config.addresses import split_url
from limen.config.document import Document, Path, dotted, parse, read_file
from limen.config.include import drop_without_effect, merge_included
from limen.config.model import Config
from limen.config.part import STATE
from limen.config.references import CEDAR, References, locate
from limen.config.servers import ServerConfig
from limen.core.addresses import is_loopback
from limen.core.faults import ConfigFault
from limen.credentials.settings import IdJag, Minted, OnBehalfOf, TokenExchange
from limen.oauth.settings import OAuthSettings

_WHOLE_FILE: Final = re.compile(r"\$\{file:([^{}]+)\}")
_SCHEMA_ID: Final = "https://json-schema.org/draft/2020-12/schema"


class ConfigFaults(ConfigFault):
    """All that is wrong with one file; `faults` holds each, in the order they stand there."""

    def __init__(self, faults: list[ConfigFault]) -> None:
        super().__init__("\n".join([faults[0].message, *map(str, faults[1:])]), faults[0].where)
        self.faults = tuple(faults)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration that can be used, and what its operator should know about it."""

    config: Config
    warnings: tuple[str, ...]
    path: FilePath
    source: bytes = b""  # the very bytes of the file it was read from

    @property
    def base(self) -> FilePath:
        """Directory that relative paths start from."""
        return self.path.parent

    @property
    def state(self) -> FilePath:
        """Where records are kept unless the file says otherwise."""
        return self.base / STATE


def load_config(path: FilePath | str, environment: Mapping[str, str] | None = None) -> Loaded:
    """Read, resolve and check one file. Raises ConfigFault (ConfigFaults when there are several)."""
    path = FilePath(path).absolute()
    shown = _short(path)
    source = read_file(path, "the configuration")
    document = parse(source, shown)
    if not isinstance(document.value, dict):
        raise ConfigFault("the file must be a mapping, for example `mcpServers: {}`", document.where(()))
    references = References(os.environ if environment is None else environment)
    drop_without_effect(document, references.warnings)
    references.resolve(document, path.parent)
    merge_included(document, path.parent, references)
    _read_cedar(document, path.parent)
    try:
        config = Config.model_validate(document.value)
    except ValidationError as error:
        faults = [ConfigFault(references.hide(fault.message), fault.where) for fault in explained(error, document)]
        raise (ConfigFaults(faults) if len(faults) > 1 else faults[0]) from None
    config = _absolute(config, path.parent)
    return Loaded(config, (*references.warnings, *_remarks(config)), path, source)


def check_consistency(config: Config) -> None:
    """What serving over HTTP needs beyond a well-formed file. Raises ConfigFault."""
    identity = config.identity
    known = identity.issuers or config.oauth is not None
    if not known and not identity.unsafe_anonymous and not identity.api_keys:
        raise ConfigFault(
            "no issuer configured: add one under identity.issuers, or set identity.unsafe_anonymous: true", "identity"
        )


def with_port(loaded: Loaded, port: int | None) -> Loaded:
    """The same configuration on another port (None: as it is). A loopback url names the port, so it follows."""
    if port is None:
        return loaded
    listen = loaded.config.listen
    host = listen.address[0]
    changes: dict[str, Any] = {"bind": f"[{host}]:{port}" if ":" in host else f"{host}:{port}"}
    parts = split_url(listen.url)
    if is_loopback(parts.hostname or ""):
        name = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
        changes["url"] = f"{parts.scheme}://{name}:{port}"
    config = loaded.config.model_copy(update={"listen": listen.model_copy(update=changes)})
    return Loaded(config, loaded.warnings, loaded.path, loaded.source)


def config_schema() -> dict[str, Any]:
    """JSON Schema of the file, for editors and for schema/limen.schema.json."""
    return {"$schema": _SCHEMA_ID, **Config.model_json_schema(by_alias=True, mode="validation")}


def _short(path: FilePath) -> str:
    """Relative to the working directory where that is shorter."""
    try:
        return str(path.relative_to(FilePath.cwd()))
    except (ValueError, OSError):
        return str(path)


def _read_cedar(document: Document, base: FilePath) -> None:
    """Entries of policy.cedar are paths, or Cedar itself where a `;` shows it. Each becomes its text."""
    policy = document.value.get("policy")
    entries = policy.get("cedar") if isinstance(policy, dict) else None
    if not isinstance(entries, list):
        return
    for index, entry in enumerate(entries):
        if not isinstance(entry, str) or ";" in entry:
            continue
        reference = _WHOLE_FILE.fullmatch(entry)
        name = reference[1] if reference else entry
        where = document.where((*CEDAR, index))
        try:
            entries[index] = read_file(locate(name, base), "the Cedar file", follow=True).decode("utf-8")
        except ConfigFault as fault:
            raise ConfigFault(f"{fault.message}: {name}", where) from None
        except UnicodeDecodeError:
            raise ConfigFault(f"the Cedar file is not UTF-8 text: {name}", where) from None


def explained(
    error: ValidationError, document: Document, near: Callable[[str], str] | None = None
) -> list[ConfigFault]:
    """One fault for each place, in the words of someone who wrote the file. `near` names a key that may be meant."""
    faults: dict[tuple[Path, str], tuple[tuple[int, int], ConfigFault]] = {}
    for item in error.errors(include_url=False, include_context=False, include_input=False):
        location = tuple(item["loc"])
        unknown, missing = item["type"] == "extra_forbidden", item["type"] == "missing"
        path = _known(location, document)
        message = str(item["msg"]).removeprefix("Value error, ")
        if unknown:
            message = f"unknown key{(near or _nearest)(str(location[-1]))}"
        elif missing:
            path = (*path, *location[-1:])  # not the name of the variant between them
            message = "this key is needed"
        place = document.keys.get(path) or document.places.get(path)
        order = (place.line, place.column) if place else (0, 0)
        fault = ConfigFault(message, document.where(path, key=unknown))
        faults.setdefault((path, "" if len(path) < len(location) and not missing else message), (order, fault))
    return [fault for _, fault in sorted(faults.values(), key=lambda one: one[0])]


def _known(location: Path, document: Document) -> Path:
    """What of a location the file really has; validators add names of their own to it."""
    path: Path = ()
    for part in location:
        if (*path, part) not in document.places:
            break
        path = (*path, part)
    return path


def _nearest(name: str) -> str:
    schema = config_schema()
    known = set(schema["properties"]).union(*(part.get("properties", {}) for part in schema["$defs"].values()))
    close = difflib.get_close_matches(name, sorted(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _absolute(config: Config, base: FilePath) -> Config:
    """Every path of the file, from the directory the file is in."""

    def full(path: FilePath) -> FilePath:
        return FilePath(os.path.normpath(locate(str(path), base)))

    listen = config.listen
    if listen.tls is not None:
        files = {name: getattr(listen.tls, name) for name in ("certificate", "key", "client_ca")}
        tls = listen.tls.model_copy(update={name: full(path) for name, path in files.items() if path is not None})
        listen = listen.model_copy(update={"tls": tls})
    servers = {
        name: server if server.cwd is None else server.model_copy(update={"cwd": full(server.cwd)})
        for name, server in config.mcpServers.items()
    }
    followers = tuple(_placed(one, full) for one in config.audit.followers)
    places = {"path": full(config.audit.path), "key": full(config.audit.key), "followers": followers}
    audit = config.audit.model_copy(update=places)
    storage = config.storage.model_copy(update={"path": full(config.storage.path)})
    include = tuple(full(path) for path in config.include)
    lock = config.catalog.lock
    catalog = config.catalog if lock is None else config.catalog.model_copy(update={"lock": full(lock)})
    geoip = config.sessions.geoip
    sessions = config.sessions if geoip is None else config.sessions.model_copy(update={"geoip": full(geoip)})
    keys = config.vault.keys
    files = {name: getattr(keys, name, None) for name in ("directory", "module", "ca")}
    keys = keys.model_copy(update={name: full(path) for name, path in files.items() if path is not None})
    vault = config.vault.model_copy(update={"keys": keys})
    named = tuple(one if one.startswith("shipped:") else str(full(FilePath(one))) for one in config.incidents.playbooks)
    incidents = config.incidents.model_copy(update={"playbooks": named})
    changes = {"listen": listen, "mcpServers": servers, "audit": audit, "storage": storage, "include": include}
    changes["incidents"] = incidents
    return config.model_copy(update={**changes, "catalog": catalog, "sessions": sessions, "vault": vault})


def _placed(follower: Follower, full: Callable[[FilePath], FilePath]) -> Follower:
    """The same with whole paths."""
    files = {name: getattr(follower, name, None) for name in ("path", "ca", "certificate")}
    return follower.model_copy(update={name: full(path) for name, path in files.items() if path is not None})


def _remarks(config: Config) -> list[str]:
    """What is allowed but probably not meant."""
    remarks: list[str] = []
    if not config.servers:
        remarks.append(f"{dotted(('mcpServers',))}: no server is in use")
    if not config.policy.rules and not config.policy.cedar:
        remarks.append("policy: no rule allows anything, so every call is denied")
    for name, server in config.servers.items():
        exposed = [one for one in server.args if not isinstance(one, str)]
        if exposed:
            remarks.append(f"mcpServers.{name}.args: others on this machine can read arguments; env is safer")
        remarks.extend(f"mcpServers.{name}.security.credential: {text}" for text in _loose_credential(server, config))
    if config.oauth is not None:
        remarks.extend(f"oauth.{text}" for text in _loose_signing_in(config, config.oauth))
    return remarks


def _loose_credential(server: ServerConfig, config: Config) -> Iterator[str]:
    credential, provider = server.security.credential, config.oauth.provider if config.oauth is not None else None
    if isinstance(credential, Minted) and credential.bind == "caller":
        yield f"a token is good for every call of its caller for {credential.lifetime} seconds (bind: caller)"
    if provider is None or provider.refresh or not isinstance(credential, TokenExchange | OnBehalfOf | IdJag):
        return
    if provider.issuer in credential.subject_issuers:
        yield "without oauth.provider.refresh people sign in again whenever the provider's token ends"


def _loose_signing_in(config: Config, oauth: OAuthSettings) -> Iterator[str]:
    if oauth.provider.client_secret is None and oauth.provider.client_key is None:
        yield "provider: Limen is a public client there, which anybody can pose as; give client_secret or client_key"
    clients = oauth.clients
    if not (clients.known or clients.documents.enabled or clients.registration):
        yield "clients: none is known, and none can become known, so nobody can sign in"
    if clients.registration:
        yield "clients.registration: whoever reaches this address can register a client; people are asked about each"
    if oauth.tokens.device:
        yield "tokens.device: device codes can be used to phish; people are told to stop if somebody sent them one"
    if config.listen.unsafe_plain_http and not config.listen.trusted_proxies:
        yield "provider: pages are shown over TLS only: name the proxy that ends it in listen.trusted_proxies"
    if config.storage.kind != "sqlite":
        yield "provider: replicas need the same consent.key, token-keys and vault keys beside storage.path"
