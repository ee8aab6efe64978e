"""What a launcher is asked for, and the signed record of what it was resolved to.

A request names packages of one ecosystem as the configuration writes them. Its record says which versions that meant on
the day somebody installed them, with the digest of every one, and the digest of the tree they became. Whatever runs
later is that tree or nothing (OWASP MCP04).
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from hashlib import sha256
from typing import Any, Final, Literal

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from limen.core.ports import Signer
from limen.protocol.jsonrpc import JsonLimits, NotJson, canonical, parse

Ecosystem = Literal["npm", "python"]

FORMAT: Final = 1
MAX_RECORD: Final = 8 << 20  # bytes
DIGEST: Final = re.compile(r"sha256-[0-9a-f]{64}")
_LIMITS: Final = JsonLimits(size=MAX_RECORD, depth=16, members=400_000, string=1 << 20)
_NPM_NAME: Final = r"(?:@[a-z0-9][a-z0-9._~-]*/)?[a-zA-Z0-9][a-zA-Z0-9._~-]*"
_NPM_SPEC: Final = re.compile(rf"(?P<name>{_NPM_NAME})(?:@(?P<version>[0-9A-Za-z^~<>=*.+|_ -]{{1,100}}))?")
_NPM_EXACT: Final = re.compile(r"=?v?[0-9]+\.[0-9]+\.[0-9]+(?:-[0-9A-Za-z.-]+)?(?:\+[0-9A-Za-z.-]+)?")
_PY_NAME: Final = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?"
_PY_CLAUSE: Final = r"(?:===?|~=|!=|<=?|>=?) ?[0-9A-Za-z.*+!_-]{1,80}"
_PY_SPEC: Final = re.compile(
    rf"(?P<name>{_PY_NAME})(?:\[(?P<extras>{_PY_NAME}(?:, ?{_PY_NAME})*)\])?"
    rf" ?(?P<version>{_PY_CLAUSE}(?:, ?{_PY_CLAUSE})*)?"
)
_PY_EXACT: Final = re.compile(r"===? ?[0-9A-Za-z.+!_-]+")


class NotLaunchable(ValueError):
    """What is configured is not started. The text says why and quotes no argument that could hold a secret."""


class RecordFault(NotLaunchable):
    """A record is not authentic or not of this form."""


@dataclass(frozen=True, slots=True)
class Package:
    """`specs`: what to install, the first one being what the command belongs to. `command`: an executable of the
    packages, "": the one they have. `rest`: arguments of the program."""

    ecosystem: Ecosystem
    specs: tuple[str, ...]
    command: str = ""
    rest: tuple[str, ...] = ()

    @property
    def request(self) -> str:
        """Names the record: same packages, same record, whatever is run of them."""
        return sha256(canonical([FORMAT, self.ecosystem, *self.specs])).hexdigest()

    @property
    def pinned(self) -> bool:
        """Whether the configuration itself names exact versions."""
        return all(is_exact(self.ecosystem, spec) for spec in self.specs)


@dataclass(frozen=True, slots=True)
class Part:
    """One package of a tree. `integrity`: its artifact's digest as its ecosystem writes it ("sha512-<base64>",
    "sha256:<hex>"). `scripts`: it wanted to run something while being installed, and did not."""

    name: str
    version: str
    integrity: str
    scripts: bool = False


@dataclass(frozen=True, slots=True)
class Record:
    """What a request was resolved to. `names`: the packages the specs name. `digest`: of the installed files. `whole`:
    with what we compiled from them.

    `commands`: executable -> how it starts: a path in the tree, or `module:attribute`. `runtime`: which interpreter it
    was installed for, "" for any. `at`: seconds since the epoch.
    """

    ecosystem: Ecosystem
    specs: tuple[str, ...]
    names: tuple[str, ...]
    parts: tuple[Part, ...]
    digest: str
    whole: str
    tree: str
    commands: Mapping[str, str]
    runtime: str
    at: int

    @property
    def main(self) -> Part | None:
        """The package the first spec names."""
        return next((part for part in self.parts if part.name == self.names[0]), None)


def check_spec(ecosystem: Ecosystem, spec: str) -> str:
    """The spec in one spelling. Raises NotLaunchable for whatever is no name with versions of a registry, and no
    package file on this disk: no URL, no repository, no alias for another package."""
    if spec.startswith("/") and "\n" not in spec:
        if not spec.endswith(".tgz" if ecosystem == "npm" else ".whl"):
            raise NotLaunchable(f"a package file ends with {'.tgz' if ecosystem == 'npm' else '.whl'}")
        return spec
    pattern = _NPM_SPEC if ecosystem == "npm" else _PY_SPEC
    if len(spec) > 300 or not pattern.fullmatch(spec):
        raise NotLaunchable(
            "the package is not a name of the registry with versions (no URL, repository, alias or path)"
        )
    return spec.replace(" ", "") if ecosystem == "python" else spec


def spec_name(ecosystem: Ecosystem, spec: str) -> str:
    """The package a checked spec names; normalised for Python (PEP 503); "" for a package file of npm, which alone
    knows. Raises NotLaunchable."""
    if spec.startswith("/"):
        return normal(spec.rsplit("/", 1)[-1].split("-", 1)[0]) if ecosystem == "python" else ""
    found = (_NPM_SPEC if ecosystem == "npm" else _PY_SPEC).fullmatch(spec)
    if found is None:
        raise NotLaunchable("the package is not a name of the registry with versions")
    return normal(found["name"]) if ecosystem == "python" else found["name"]


def normal(name: str) -> str:
    """PEP 503."""
    return re.sub(r"[-_.]+", "-", name).lower()


def is_exact(ecosystem: Ecosystem, spec: str) -> bool:
    """Whether it can mean one version only. A package file is none: it may be another one tomorrow."""
    found = (_NPM_SPEC if ecosystem == "npm" else _PY_SPEC).fullmatch(spec)
    version = found["version"] if found else None
    if not version:
        return False
    exact = _NPM_EXACT if ecosystem == "npm" else _PY_EXACT
    return exact.fullmatch(version) is not None


# records


def sealed(record: Record, signer: Signer) -> bytes:
    """The record as it is stored: canonical JSON with a signature over all of it. Raises what the signer raises."""
    body = asdict(record)
    message = _message(body)
    signed = {"record": body, "key": signer.name, "signature": base64.b64encode(signer.sign(message)).decode()}
    return json.dumps(signed, indent=1, sort_keys=True).encode() + b"\n"


def opened(data: bytes, name: str, public_key: bytes) -> Record:
    """The record, if this key signed exactly it. Raises RecordFault."""
    try:
        value = parse(data, _LIMITS, fold_names=False)
    except (NotJson, RecursionError) as error:
        raise RecordFault(f"the record is not JSON: {error}") from None
    if type(value) is not dict or set(value) != {"record", "key", "signature"} or value["key"] != name:
        raise RecordFault("the record is not of this form, or another key signed it")
    try:
        signature = base64.b64decode(value["signature"], validate=True)
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, _message(value["record"]))
    except (InvalidSignature, ValueError, TypeError, binascii.Error):
        raise RecordFault("the record's signature does not verify") from None
    return _record(value["record"])


def _message(body: Any) -> bytes:
    """No other thing the same key signs starts like this."""
    return f"limen package record {FORMAT}\n".encode() + canonical(body)


def _record(body: Any) -> Record:
    """Of signed members, so only their presence is in question. Raises RecordFault."""
    try:
        parts = tuple(Part(**part) for part in body["parts"])
        return Record(**{**body, "specs": tuple(body["specs"]), "names": tuple(body["names"]), "parts": parts})
    except (TypeError, KeyError) as error:
        raise RecordFault(f"the record is of another version of this program: {error}") from None


def differences(before: Record, after: Record) -> list[str]:
    """What another resolution changed, for people. A version whose content changed comes first: versions do not."""
    old = {part.name: part for part in before.parts}
    new = {part.name: part for part in after.parts}
    swapped = [f"{name} {new[name].version}: other content under the same version" for name in swaps(before, after)]
    moved = [
        f"{name}: {old[name].version} -> {new[name].version}"
        for name in new
        if name in old and old[name].version != new[name].version
    ]
    added = [f"{name} {new[name].version}: new" for name in new if name not in old]
    removed = [f"{name} {old[name].version}: gone" for name in old if name not in new]
    return [*swapped, *moved, *added, *removed]


def swaps(before: Record, after: Record) -> list[str]:
    """Packages that have another content under an unchanged version."""
    old = {(part.name, part.version): part.integrity for part in before.parts}
    return [one.name for one in after.parts if old.get((one.name, one.version), one.integrity) != one.integrity]
