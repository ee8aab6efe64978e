"""From a backup to a directory a gateway can be started in, on a machine that has nothing.

1. The whole file is read and authenticated, and every entry compared with the manifest, before anything is written.
2. It is read again into a draft beside the goal, authenticated again. The configuration comes last.
3. The log in the draft is verified with the key the manifest names.
4. What must not come back from the past is taken away (`_forget`), and the log says what happened, under a new key.
5. One rename. Whoever is killed before leaves a draft without a configuration, which nothing starts from.

A PostgreSQL database is filled in one transaction between 4 and 5, and must be empty.
"""

from __future__ import annotations

import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final

import orjson

from limen.adapters.handlekeys import HandleKeys
from limen.adapters.keys import FileSigner
from limen.adapters.sealed_stream import NotSealed, SealedReader
from limen.adapters.signing_keys import SigningKeys
from limen.adapters.snapshots import Row, load
from limen.archive import MANIFEST, Entry, read_manifest, unpacked, unpacked_rows
from limen.audit.folders import make_folder, sync_folder
from limen.audit.ledger import Ledger
from limen.audit.verify import verify
from limen.core.faults import ConfigFault, DependencyFault
from limen.identity.api_keys import ApiKey
from limen.identity.revoked import Epoch
from limen.opening import TOKEN_KEYS
from limen.storage import TABLES

Progress = Callable[[str, int, int], None]
# Of what was issued: whose rows do not come back. A prefix is of the keys in that table, "" all of it.
_FORGOTTEN: Final = {
    "sessions": ("",),
    "attempts": ("",),
    "approvals": ("",),
    "consents": ("",),
    "oauth": ("family/", "code/", "device/", "transaction/"),
}


class Opened:
    """A backup that was read whole and is as it was written."""

    def __init__(self, path: Path, passphrase: str, progress: Progress = lambda what, done, of: None) -> None:
        """Raises NotSealed for one that is not, DependencyFault when it cannot be read. Writes nothing."""
        self._path, self._passphrase = path, passphrase
        try:
            self._file: BinaryIO = path.open("rb")
            self._size = os.fstat(self._file.fileno()).st_size
            self.manifest = self._verified(progress)
        except OSError as fault:
            raise DependencyFault("backup", f"{path}: {fault.strerror or fault}") from fault

    def __enter__(self) -> Opened:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def entries(self) -> Iterator[Entry]:
        """Every entry but the manifest. Raises NotSealed: authenticated anew, for the file may change meanwhile."""
        reader = SealedReader(self._file, self._passphrase, str(self._path))
        for entry in unpacked(reader, str(self._path)):
            if entry.name == MANIFEST:
                if read_manifest(entry.content, str(self._path)) != self.manifest:
                    raise NotSealed("was exchanged while it was read", str(self._path))
            else:
                yield entry

    def rows(self) -> Iterator[tuple[str, Row]]:
        """Rows of all tables, each with the name of its table."""
        for entry in self.entries():
            kind, _, name = entry.name.partition("/")
            if kind == "table" and name in TABLES:
                yield from ((name, row) for row in unpacked_rows(entry.content, str(self._path)))
            else:
                _drained(entry.content)

    def _verified(self, progress: Progress) -> dict[str, Any]:
        where, sizes, manifest = str(self._path), dict[str, int](), dict[str, Any]()
        for entry in unpacked(SealedReader(self._file, self._passphrase, where), where):
            progress("read", self._file.tell(), self._size)
            if entry.name == MANIFEST:
                manifest = read_manifest(entry.content, where)
                continue
            if manifest or entry.name in sizes:
                raise NotSealed(f"{entry.name}: stands where no entry may", where)
            sizes[entry.name] = _drained(entry.content)
        listed = manifest.get("entries")
        if not isinstance(listed, dict) or {name: one["size"] for name, one in listed.items()} != sizes:
            raise NotSealed("holds other entries than its manifest lists", where)
        return manifest


def restore(
    opened: Opened,
    goal: Path,
    *,
    by: str,
    database: str = "",
    keep_issued: bool = False,
    progress: Progress = lambda what, done, of: None,
) -> dict[str, Any]:
    """Make `goal`, which must not be there or be empty. What was done, for the operator.

    Raises ConfigFault where something is there already, NotSealed, DependencyFault; then `goal` is as it was.
    """
    goal = goal.absolute()
    if goal.is_symlink() or (goal.exists() and (not goal.is_dir() or any(goal.iterdir()))):
        raise ConfigFault("is not an empty directory; nothing is overwritten", str(goal))
    postgres = opened.manifest["kind"] == "postgres"
    if postgres != bool(database):
        needed = "--database is needed" if postgres else "--database is for records that were in PostgreSQL"
        raise ConfigFault(f"the backup is of {opened.manifest['kind']}: {needed}", "database")
    draft = goal.with_name(f".{goal.name}.restoring-{secrets.token_hex(6)}")
    try:
        draft.mkdir(mode=0o700, parents=True)
        done = _Restoration(opened, draft, by, keep_issued, progress).run(database)
        if goal.exists():
            goal.rmdir()
        os.rename(draft, goal)
        sync_folder(goal.parent)
    except OSError as fault:
        raise DependencyFault("restore", f"{fault.filename or goal}: {fault.strerror or fault}") from fault
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return done


class _Restoration:
    """One pass through the steps above."""

    def __init__(self, opened: Opened, draft: Path, by: str, keep_issued: bool, progress: Progress) -> None:
        self._opened, self._draft, self._manifest, self._by = opened, draft, opened.manifest, by
        self._keep_issued, self._progress, self._now = keep_issued, progress, time.time()
        places = self._manifest["places"]
        self._storage, self._audit, self._key = (_below(draft, places[one]) for one in ("storage", "audit", "key"))
        self._place = _below(draft, self._manifest["config"])
        if f"files/{self._manifest['config']}" not in self._manifest["entries"]:
            raise NotSealed("holds no configuration", str(draft))
        self._revoked = 0

    def run(self, database: str) -> dict[str, Any]:
        """Everything but the rename."""
        configuration = self._files()
        report = verify(self._audit, self._manifest["log"]["key"])
        if not report.ok or report.root.hex() != self._manifest["log"]["root"]:
            raise NotSealed(f"its log does not verify: {report.problem}", str(self._audit))
        rows = _elsewhere(self._opened.rows())
        rows = rows if self._keep_issued else self._forgetting(rows)
        make_folder(self._storage.parent)
        count = load(database or self._storage, TABLES, rows)
        key = self._new_keys()
        _write(self._place, iter([configuration]))
        for folder, _, _ in os.walk(self._draft):
            sync_folder(Path(folder))
        return {
            "id": self._manifest["id"], "made": self._manifest["at"], "rows": count, "records": report.size,
            "root": report.root.hex(), "log_key": key, "keys": self._manifest["keys"],
            "api_keys_revoked": self._revoked, "issued_before_refused": not self._keep_issued,
            "outside": self._manifest["outside"], "artifacts": self._manifest["artifacts"],
        }  # fmt: skip

    def _files(self) -> bytes:
        """Write every file but the configuration, which is returned."""
        configuration, listed = b"", len(self._manifest["entries"])
        for number, entry in enumerate(self._opened.entries()):
            self._progress("files", number, listed)
            kind, _, path = entry.name.partition("/")
            if kind != "files":
                _drained(entry.content)
            elif path == self._manifest["config"]:
                configuration = b"".join(entry.content)
            else:
                _write(_below(self._draft, path), entry.content)
        return configuration

    def _forgetting(self, rows: Iterator[tuple[str, Row]]) -> Iterator[tuple[str, Row]]:
        """What was issued is not believed any more, for what was revoked since the backup is not known."""
        for name, row in rows:
            key, value, expires = row
            if any(key.startswith(prefix) for prefix in _FORGOTTEN.get(name, ())):
                continue
            if name == "revocations" and key == "epoch":
                continue
            if name == "keys" and key.startswith("key:"):
                value = self._ended(value)
            yield name, (key, value, expires)
        epoch = Epoch(self._now, self._now + float(self._manifest["longest_token"]))
        yield "revocations", ("epoch", orjson.dumps({"at": epoch.at, "until": epoch.until}), None)

    def _ended(self, raw: bytes) -> bytes:
        """An API key, revoked: it may have been, since. `limen keys api create` makes another."""
        record = orjson.loads(raw)
        if not record.get("revoked"):
            self._revoked += 1
            record |= {"revoked": self._now, "revoked_by": f"restore by {self._by}"}
        ApiKey(**record)
        return orjson.dumps(record)

    def _new_keys(self) -> str:
        """Keys that make what was signed and sealed before worthless, and one for the log, which continues under it:
        so the records that are not in the backup can be told from those that are written from now on."""
        if not self._manifest["keys"]:
            return ""
        if not self._keep_issued:
            HandleKeys(self._storage.with_name("handle-keys")).replace()
            if self._storage.with_name(TOKEN_KEYS).exists():
                SigningKeys(self._storage.with_name(TOKEN_KEYS)).rotate(distrust=True)
        name, log_key = self._manifest["log"]["name"], self._audit.with_name(f"{self._audit.name}-log.key")
        former = self._signer(name, log_key)
        ledger, draft = Ledger.open(self._audit, former), log_key.with_name(log_key.name + ".next")
        try:
            issued = "kept" if self._keep_issued else "refused"
            record = {
                "t": "restored", "ts": time.time(), "backup": self._manifest["id"], "made": self._manifest["at"],
                "size": self._manifest["log"]["size"], "by": self._by, "issued": issued,
            }  # fmt: skip
            draft.unlink(missing_ok=True)
            draft.with_name(draft.name + ".pub").unlink(missing_ok=True)
            signer = FileSigner.open(draft, self._manifest["log"]["base"]).named(name)
            ledger.succeed(signer, "restored")
            ledger.append(orjson.dumps(record))
        finally:
            ledger.close_now()
        os.replace(draft, log_key)
        os.replace(draft.with_name(draft.name + ".pub"), log_key.with_name(log_key.name + ".pub"))
        return signer.verifier_key

    def _signer(self, name: str, log_key: Path) -> FileSigner:
        """The one of the keys in the backup that signed the log last. Raises NotSealed when it is none of them."""
        for path in (log_key, log_key.with_name(log_key.name + ".next"), self._key):
            if path.exists():
                signer = FileSigner.open(path, self._manifest["log"]["base"], create=False).named(name)
                if signer.verifier_key == self._manifest["log"]["key"]:
                    return signer
        raise NotSealed("the key that signs its log is not in it", str(self._audit))


def _elsewhere(rows: Iterator[tuple[str, Row]]) -> Iterator[tuple[str, Row]]:
    """Nobody writes these logs where they are now, and their index is empty: it is filled again from the log."""
    for name, (key, value, expires) in rows:
        if name == "cursors" and key.startswith("watch/") and key.endswith("/index"):
            continue
        if name == "logs" and key.startswith("log/"):
            value = orjson.dumps(orjson.loads(value) | {"at": 0.0})
        yield name, (key, value, expires)


def _below(directory: Path, path: str) -> Path:
    """A place in the directory, and nowhere else. Raises NotSealed."""
    found = Path(os.path.normpath(directory / path))
    if not found.is_relative_to(directory) or found == directory:
        raise NotSealed(f"names a place outside: {path[:80]!r}", str(directory))
    return found


def _write(path: Path, content: Iterator[bytes]) -> None:
    """A new file for its owner only, on disk. Raises OSError."""
    make_folder(path.parent)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(handle, "wb") as stream:
        for piece in content:
            stream.write(piece)
        stream.flush()
        os.fsync(handle)


def _drained(content: Iterator[bytes]) -> int:
    return sum(map(len, content))
