"""A backup of everything one gateway keeps, made while it runs: one sealed file.

In this order: tables (as they are at one moment), then the log up to a checkpoint that is signed later than that (so
that what follows the log never is ahead of it), keys, the configuration. Not in it: what the configuration refers to
outside its directory, and installed packages, which are listed by digest and installed again.
"""

from __future__ import annotations

import os
import re
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from limen import __version__
from limen.adapters.sealed_stream import COST, SealedWriter
from limen.adapters.snapshots import snapshot
from limen.archive import Packer, packed_rows
from limen.audit.folders import sync_folder
from limen.audit.journal import journal_path
from limen.audit.logs import ID
from limen.audit.note import Checkpoint, NoteError, VerifierKey
from limen.audit.read import CHECKPOINT, PRUNED, load
from limen.audit.succession import place as succession_place
from limen.audit.succession import succession_notes
from limen.audit.tiles import ENTRIES, WIDTH, split_bundle, tile_path
from limen.audit.verify import present
from limen.config.document import parse
from limen.config.edit import edited
from limen.core.faults import ConfigFault, DependencyFault
from limen.credentials.vault_settings import FileKeys
from limen.launching import Launches
from limen.oauth.settings import CONSENT_KEY
from limen.opening import TOKEN_KEYS, VAULT_KEYS, log_key, open_log_signer, open_signer
from limen.sandbox.launch import NotLaunchable
from limen.sandbox.packages import Package
from limen.storage import TABLES

if TYPE_CHECKING:
    from limen.config.load import Loaded

SHORTEST: Final = 12  # characters of a passphrase
STATE: Final = "limen-state"  # where records go whose configured place is outside the restored directory
_HASH: Final = 32
_REFERENCE: Final = re.compile(r"\$\{((?:env|file):[^{}]+)\}")
Progress = Callable[[str, int, int], None]  # what, done, of how many


class Backup:
    """Makes one. `keys`: whether keys are in it; without them it restores only where they are put back."""

    def __init__(self, loaded: Loaded, *, keys: bool = True, cost: int = COST) -> None:
        self._loaded, self._config, self._keys, self._cost = loaded, loaded.config, keys, cost
        self._base = loaded.path.parent
        storage, audit = self._config.storage.path, self._config.audit
        self._places = {
            "storage": self._inside(storage), "audit": self._inside(audit.path), "key": self._inside(audit.key),
        }  # fmt: skip

    def create(self, goal: Path, passphrase: str, progress: Progress = lambda what, done, of: None) -> dict[str, Any]:
        """Write the file; it appears whole or not at all. Returns its manifest. Raises ConfigFault where there is one
        already, DependencyFault."""
        check_passphrase(passphrase)
        if goal.exists():
            raise ConfigFault("there is a file already; a backup does not replace another", str(goal))
        draft = goal.with_name(f".{goal.name}.{secrets.token_hex(6)}")
        try:
            handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
            with os.fdopen(handle, "wb") as sink:
                packer = Packer(SealedWriter(sink, passphrase, self._cost))
                manifest = self._pack(packer, progress)
                sink.flush()
                os.fsync(handle)
            os.link(draft, goal)  # never over another one
            sync_folder(goal.parent)
        except OSError as fault:
            raise DependencyFault("backup", f"{goal}: {fault.strerror or fault}") from fault
        finally:
            with suppress(FileNotFoundError):
                draft.unlink()
        return manifest

    def _pack(self, packer: Packer, progress: Progress) -> dict[str, Any]:
        counts, keys = dict[str, int](), self._key_files()
        with snapshot(self._config.storage.place, TABLES) as rows:
            for number, name in enumerate(TABLES):
                progress("tables", number, len(TABLES))
                counts[name] = 0

                def counted(name: str = name) -> Iterator[tuple[str, bytes, float | None]]:
                    for row in rows(name):
                        counts[name] += 1
                        yield row

                packer.add(f"table/{name}", packed_rows(counted()))
        checkpoint = self._log(packer, progress)
        for place, content in keys.items():
            packer.add(f"files/{place}", [content])
        if self._key_files() != keys:
            raise DependencyFault("backup", "keys were replaced while it was made: records and keys may not fit; again")
        left = self._configuration(packer)
        manifest = {
            "id": secrets.token_hex(8), "at": time.time(), "limen": __version__, "config": self._loaded.path.name,
            "places": self._places, "kind": self._config.storage.kind, "tables": counts, "keys": self._keys,
            "log": {
                "name": checkpoint.origin, "base": self._config.audit.name, "size": checkpoint.size,
                "root": checkpoint.root.hex(),
                "key": open_log_signer(self._config).verifier_key,
            },
            "longest_token": self._config.identity.max_token_lifetime, "artifacts": self._artifacts(), "outside": left,
            "text": sha256(self._loaded.source).hexdigest(),
        }  # fmt: skip
        packer.finish(manifest)
        return manifest

    # the log

    def _log(self, packer: Packer, progress: Progress) -> Checkpoint:
        """Everything a checkpoint needs, from a directory that is written to: full tiles never change."""
        directory, place = self._config.audit.path, f"files/{self._places['audit']}"
        signer = open_log_signer(self._config)
        try:
            chain = succession_notes(directory)
            (_, checkpoint, _, note), last = present(directory, VerifierKey(signer.name, signer.public_key))
        except NoteError as fault:
            raise ConfigFault(f"the log cannot be backed up: {fault}", str(directory)) from None
        bundles, width = divmod(checkpoint.size, WIDTH)
        for index in range(bundles):
            progress("log", index, bundles)
            self._tile(packer, directory, place, ENTRIES, index)
        if width:
            if last is None:
                raise DependencyFault("backup", "the log changes faster than it can be read; try again")
            last = last[: split_bundle(last, width)[1]]  # a full one may have taken its place meanwhile
            packer.add(f"{place}/{tile_path(ENTRIES, bundles, width)}", [last])
            packer.add(f"{place}/{journal_path(bundles)}", [last])
        level, count = 0, checkpoint.size
        while count:
            for index in range(count // WIDTH):
                self._tile(packer, directory, place, level, index)
            if part := count % WIDTH:
                self._tile(packer, directory, place, level, count // WIDTH, part)
            level, count = level + 1, count // WIDTH
        for number, handed_over in enumerate(chain, 1):
            packer.add(f"{place}/{succession_place(number)}", [handed_over])
        if succession_notes(directory) != chain:
            raise DependencyFault("backup", "the key of the log was replaced while it was made; again")
        # After the records: whatever was removed while they were copied stands in it.
        for name in (PRUNED, ID):
            if (content := load(directory, name)) is not None:
                packer.add(f"{place}/{name}", [content])
        packer.add(f"{place}/{CHECKPOINT}", [note])
        return checkpoint

    def _tile(
        self, packer: Packer, directory: Path, place: str, level: int | str, index: int, width: int = WIDTH
    ) -> None:
        """A tile, or the beginning of the full one that has taken its place meanwhile. What retention took is not
        there."""
        path = tile_path(level, index, width)
        data = load(directory, path)
        if data is None and width < WIDTH:
            full = load(directory, tile_path(level, index))
            data = full[: width * _HASH] if full is not None else None
        if data is not None:
            packer.add(f"{place}/{path}", [data])

    # keys and the configuration

    def _key_files(self) -> dict[str, bytes]:
        """Where each file of keys goes in the restored directory, and what is in it."""
        if not self._keys:
            return {}
        storage, audit, vault = self._config.storage.path, self._config.audit, self._config.vault.keys
        beside = Path(self._places["storage"]).parent
        files = {Path(self._places["key"]): audit.key}
        files |= {_with(Path(self._places["key"]), ".pub"): _with(audit.key, ".pub")}
        own, place = log_key(self._config), Path(self._places["audit"])
        for suffix in ("", ".pub", ".next"):  # a change of keys may be under way: the log says which one it is
            files[place.with_name(f"{place.name}-log.key{suffix}")] = _with(own, suffix)
        files |= {beside / name: storage.with_name(name) for name in ("quarantine.key", CONSENT_KEY)}
        folders = {name: storage.with_name(name) for name in ("handle-keys", "datakeys", TOKEN_KEYS, VAULT_KEYS)}
        if isinstance(vault, FileKeys) and vault.directory is not None:
            folders[VAULT_KEYS] = vault.directory
        for name, folder in folders.items():
            if folder.is_dir():
                files |= {beside / name / one.name: one for one in folder.iterdir() if not one.name.startswith(".")}
        return {goal.as_posix(): path.read_bytes() for goal, path in files.items() if path.is_file()}

    def _configuration(self, packer: Packer) -> list[str]:
        """The file, with places that are outside its directory named anew, and what it names beside itself. Returns
        what it refers to and is not in the backup."""
        loaded, config = self._loaded, self._config
        edits: dict[tuple[str | int, ...], tuple[str, ...]] = {}
        moved = {
            ("storage", "path"): config.storage.path,
            ("audit", "path"): config.audit.path,
            ("audit", "key"): config.audit.key,
        }
        for (where, path), place in zip(moved.items(), ("storage", "audit", "key"), strict=True):
            if not path.is_relative_to(self._base):
                edits[where] = (self._places[place],)
        if isinstance(config.vault.keys, FileKeys) and config.vault.keys.directory is not None:
            edits["vault", "keys", "directory"] = (str(Path(self._places["storage"]).with_name(VAULT_KEYS)),)
        text = edited(loaded.source, str(loaded.path), edits).encode() if edits else loaded.source
        packer.add(f"files/{loaded.path.name}", [text])
        outside = [f"${{{one}}}" for one in dict.fromkeys(_REFERENCE.findall(loaded.source.decode("utf-8", "replace")))]
        for path in self._beside():
            if path.is_relative_to(self._base) and path.is_file():
                packer.add(f"files/{path.relative_to(self._base).as_posix()}", [path.read_bytes()])
            else:
                outside.append(str(path))
        if config.listen.tls is not None:
            outside += [str(config.listen.tls.certificate), str(config.listen.tls.key)]
        return outside

    def _beside(self) -> Iterator[Path]:
        config = self._config
        yield from dict.fromkeys(config.include)
        if config.catalog.lock is not None:
            yield config.catalog.lock
        value = parse(self._loaded.source, str(self._loaded.path)).value
        policy = value.get("policy") if isinstance(value, dict) else None
        for entry in (policy.get("cedar") or ()) if isinstance(policy, dict) else ():
            if isinstance(entry, str) and ";" not in entry and "${" not in entry:
                yield self._base / Path(entry).expanduser()

    def _artifacts(self) -> dict[str, str]:
        """What was installed for each server: its digest."""
        store = Launches(self._config, partial(open_signer, self._config)).store
        found: dict[str, str] = {}
        for name, server in self._config.servers.items():
            with suppress(NotLaunchable):
                form = server.form() if server.command is not None and not server.security.unsafe_unverified else None
                record = store.find(form) if isinstance(form, Package) else None
                if record is not None:
                    found[name] = record.digest
        return found

    def _inside(self, path: Path) -> str:
        """Where it is in the restored directory."""
        if path.is_relative_to(self._base):
            return path.relative_to(self._base).as_posix()
        return f"{STATE}/{path.name}"


def check_passphrase(passphrase: str) -> None:
    """Raises ConfigFault for one that can be guessed too easily."""
    if len(passphrase) < SHORTEST:
        raise ConfigFault(f"a passphrase has {SHORTEST} characters at least", "passphrase")


def _with(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)
