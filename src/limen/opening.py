"""What commands open of the house without running it: records, policy, keys, addresses."""

from __future__ import annotations

import importlib
import os
import pwd
import time
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, cast

import jiter

from limen.adapters.keys import FileSigner
from limen.adapters.lockfile import load_lock, own_key
from limen.adapters.signing_keys import SigningKeys
from limen.audit.ledger import Ledger
from limen.audit.logs import key_beside, name_of
from limen.audit.note import NoteError
from limen.audit.prune import pruning
from limen.audit.succession import successions
from limen.catalog.locked import LockedRegistry
from limen.catalog.registry import Registry
from limen.catalog.snapshot import Catalog
from limen.config.bundles import routes
from limen.core.call import Approved
from limen.core.faults import ConfigFault, DependencyFault
from limen.core.ports import Kept, KeyWrap, Signer
from limen.credentials.vault import Vault, in_use
from limen.credentials.vault_settings import AzureKeys, FileKeys, KeyringKeys
from limen.inspection import Reviewer
from limen.policy.compile import compile_policy
from limen.policy.decision import PolicySet
from limen.storage import State

if TYPE_CHECKING:
    from limen.config.model import Config

VAULT_KEYS, TOKEN_KEYS = "vault-keys", "token-keys"  # directories beside the storage
# Where a key-encryption key may be; the libraries of all but files are extras, imported when a configuration says so.
_KEY_WRAPS: Final = MappingProxyType(
    {
        "file": ("limen.adapters.datakeys", "FileKeyStore", ""),
        "keyring": ("limen.adapters.os_keyring", "KeyringKeyWrap", "keyring"),
        "pkcs11": ("limen.adapters.pkcs11_keys", "Pkcs11KeyWrap", "pkcs11"),
        "azure_key_vault": ("limen.adapters.azure_key_vault", "AzureKeyWrap", "azure"),
    }
)
_TRIES: Final = 3
_PATIENCE: Final = 8.0  # seconds to wait for a removal of old records to end
CALLABLE: Final = frozenset({"tool", "prompt", "resource", "template"})  # kinds of definitions a rule can name


def open_registry(config: Config) -> Registry:
    """The catalog's records, or the lock the configuration names, for commands. Raises ConfigFault."""
    return registry_of(config, State.open(config).catalog, open_signer(config))


def registry_of(config: Config, table: Kept, signer: Signer) -> Registry:
    """Where approvals are: in our records, or all of them in one signed file that nothing can be added to here."""
    path = config.catalog.lock
    if path is None:
        detectors = [Reviewer(config, time.time)]
        return Registry(table, governance=config.catalog.governance, signer=signer, detectors=detectors)
    return LockedRegistry(load_lock(path, config.catalog.lock_keys or [own_key(config.audit.key)]))


def open_policy(config: Config, registry: Registry, catalog: Catalog | None = None) -> PolicySet:
    """The policy compiled against what is approved now. Raises ConfigFault."""
    names = [Approved(server, kind, name, "", b"{}") for server, kind, name in announced(registry)]
    approved = (catalog or registry.snapshot()).approved(withheld=True)
    return compile_policy(config.policy, approved, servers=config.servers, announced=names)


def announced(registry: Registry) -> set[tuple[str, str, str]]:
    """Server, kind and name of whatever a rule may name. A lock knows what was left out of it from the locked sets."""
    found = set(registry.names())
    if isinstance(registry, LockedRegistry):
        sets = ((one.server, jiter.from_json(one.definition)) for one in registry.lock.entries if one.kind == "set")
        found |= {(server, row[0], row[1]) for server, known in sets for row in known["announced"]}
    return {place for place in found if place[1] in CALLABLE}


def open_signer(config: Config) -> FileSigner:
    """Our own key, made on first use: it seals approvals, and signs the log until another one was made for that."""
    config.audit.key.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    return FileSigner.open(config.audit.key, config.audit.name)


def log_key(config: Config) -> Path:
    """Where the key that signs the log is once it was replaced; before, `audit.key` does."""
    return key_beside(config.audit.path)


def open_log_signer(config: Config) -> FileSigner:
    """The key that signs the log's checkpoints now, as the log itself says. Raises ConfigFault when that key is not
    here, DependencyFault."""
    path = log_key(config)
    for _ in range(_TRIES):
        try:
            chain = successions(config.audit.path)
        except NoteError as fault:
            where = str(config.audit.path)
            raise ConfigFault(f"the log's chain of keys must not be believed: {fault}", where) from None
        name = name_of(config.audit.path, config.audit.name)
        if not chain and not path.exists():
            return open_signer(config).named(name)
        for found in (path, _draft(path)):
            with suppress(DependencyFault):  # it is being put in its place: look again
                signer = FileSigner.open(found, config.audit.name, create=False)
                if chain and signer.public_key == chain[-1].after.public_key:
                    return signer.named(name)
    if not chain:
        text = f"the log in {config.audit.path} knows nothing of this key, which signs it: it was set back or emptied"
        raise ConfigFault(f"{text}. Restore it, or move this key away to begin another log", str(path))
    raise ConfigFault(f"the key that signs the log since record {chain[-1].size} is not here; restore it", str(path))


def replace_log_key(config: Config, ledger: Ledger, why: str) -> FileSigner:
    """Have a new key sign the log; the former secret is overwritten. Waits for the disk. Only for whoever writes that
    ledger. Raises DependencyFault: then the former key goes on signing."""
    path = log_key(config)
    try:
        # Nobody removes records meanwhile: the note about those counts as the former key leaves it.
        with pruning(config.audit.path, _PATIENCE):
            settle_log_key(config)
            for left in (_draft(path), _public(_draft(path))):
                left.unlink(missing_ok=True)
            signer = FileSigner.open(_draft(path), config.audit.name).named(ledger.name)
            ledger.succeed(signer, why)
            _settle(path)
    except OSError as fault:
        raise DependencyFault("signing key", f"{path}: {fault.strerror or fault}") from fault
    return signer


def settle_log_key(config: Config) -> None:
    """Finish a change of keys that was interrupted after the log knew of it. Only for whoever writes that ledger.
    Raises ConfigFault, DependencyFault."""
    path, draft = log_key(config), _draft(log_key(config))
    try:
        chain = successions(config.audit.path) if draft.exists() else []
        if chain and FileSigner.open(draft, config.audit.name, create=False).public_key == chain[-1].after.public_key:
            _settle(path)
    except NoteError as fault:
        raise ConfigFault(f"the log's chain of keys must not be believed: {fault}", str(path)) from None
    except OSError as fault:
        raise DependencyFault("signing key", f"{path}: {fault.strerror or fault}") from fault


def _draft(path: Path) -> Path:
    return path.with_name(path.name + ".next")


def _public(path: Path) -> Path:
    return path.with_name(path.name + ".pub")


def _settle(path: Path) -> None:
    """The draft takes the place of the key. What stood there is overwritten afterwards: it signs nothing any more."""
    former = os.open(path, os.O_WRONLY | os.O_NOFOLLOW) if path.exists() else None
    try:
        os.replace(_draft(path), path)
        if _public(_draft(path)).exists():
            os.replace(_public(_draft(path)), _public(path))
        if former is not None:
            os.pwrite(former, bytes(os.fstat(former).st_size), 0)
            os.fsync(former)
    finally:
        if former is not None:
            os.close(former)


def open_vault(config: Config, state: State) -> Vault:
    """Where secrets are sealed. Waits for the disk, the device or the service that holds the key-encryption key.

    Raises ConfigFault if that key is not there while there are data keys, or is not the one that wrapped them: a new
    one is made only for a vault that was never used. DependencyFault.
    """
    vault = Vault(state.vault, open_key_wrap(config, create=not in_use(state.vault)))
    vault.prove()
    return vault


def needs_keys(config: Config) -> bool:
    """Whether tokens are issued, kept or obtained here, or arguments sealed."""
    sealed = "encrypted" in (config.audit.parameters, *config.parameters.values())
    tokens = config.oauth is not None or any(one.security.credential is not None for one in config.servers.values())
    return sealed or tokens


def open_key_wrap(config: Config, *, create: bool) -> KeyWrap:
    """The key-encryption key, made first if there is none and `create`. Raises ConfigFault, DependencyFault."""
    keys, beside = config.vault.keys, config.storage.path.with_name(VAULT_KEYS)
    module, member, extra = _KEY_WRAPS[keys.kind]
    try:
        made: Any = getattr(importlib.import_module(module), member)
    except ImportError as error:  # also when a library is there and cannot be loaded
        raise ConfigFault(f"needs {error.name}: pip install 'limen[{extra}]'", "vault.keys") from None
    if isinstance(keys, AzureKeys):
        return cast("KeyWrap", made(keys))  # made there, never by us
    if isinstance(keys, FileKeys):
        place: tuple[Any, ...] = (keys.directory or beside,)
    elif isinstance(keys, KeyringKeys):
        place = (beside, keys.entry)
    else:
        place = (keys.module, keys.token, keys.pin.get_secret_value(), keys.key)
    return cast("KeyWrap", made(*place, create=create))


def open_token_keys(config: Config) -> SigningKeys:
    """The keys that sign tokens of ours, a first one made if there is none. Raises ConfigFault, DependencyFault."""
    return SigningKeys(config.storage.path.with_name(TOKEN_KEYS), algorithm=config.vault.signing.algorithm)


def resources(config: Config) -> dict[str, str]:
    """Canonical resource URI of each route, servers and bundles; "" is the bundle of all servers (RFC 8707)."""
    base = f"{config.listen.url}/mcp"
    names = (*routes(config.bundles, config.servers), *config.servers)
    return {name: f"{base}/{name}" if name else base for name in names}


def directory(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    return path


def local_user() -> str:
    """The operating-system user a stdio client acts as (A14)."""
    return pwd.getpwuid(os.getuid()).pw_name
