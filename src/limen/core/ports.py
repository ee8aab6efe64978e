"""Small protocols several rooms share. Shaped by need, not by database; adapters implement them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

from limen.core.cell import Cell, CellSpec, Property


class Table(Protocol):
    """Keyed records with compare-and-set. Values are bytes; keys are text. All methods raise DependencyFault."""

    def get(self, key: str) -> bytes | None:
        """The live value, or None when absent or expired."""
        ...

    def put(self, key: str, value: bytes, expires: float | None = None) -> None:
        """Write unconditionally. `expires` is seconds since the epoch."""
        ...

    def swap(self, key: str, old: bytes | None, new: bytes | None, expires: float | None = None) -> bool:
        """Write `new` (None: delete) only if the current value is `old` (None: absent). True if it was."""
        ...

    def scan(self, prefix: str) -> Iterator[tuple[str, bytes]]:
        """Live records whose key starts with `prefix`, in key order."""
        ...


class Kept(Table, Protocol):
    """A table on the other side of a process: it tells when it changed, and can be let go of."""

    def change_token(self) -> tuple[int, ...]:
        """Differs from the last one when anybody wrote. Raises DependencyFault."""
        ...

    def close(self) -> None: ...


class Quota(NamedTuple):
    """A bucket of `capacity` units that fills up again at `rate` units a second. A budget has rate 0 and is forgotten
    at `ends` (seconds since the epoch), when the next one begins under another key."""

    capacity: float
    rate: float = 0.0
    ends: float | None = None


class Taken(NamedTuple):
    """What a counter gave: `granted` units (0: refused), what is left, and seconds until as much as was needed is."""

    granted: float
    left: float
    wait: float = 0.0


class Counter(Protocol):
    """Counts that several processes may share; each method is one atomic step. Answers at once where it can, else
    hands back an awaitable. Raises DependencyFault."""

    def take(self, key: str, want: float, quota: Quota, least: float | None = None) -> Taken | Awaitable[Taken]:
        """Take up to `want` units, at least `least` (default: all of them), or none. A negative `want` gives back."""
        ...

    def hold(self, key: str, holder: str, want: int, capacity: int, seconds: float) -> int | Awaitable[int]:
        """Be the holder of `want` of `capacity` places for so long, instead of what this holder had. Returns how many
        it has now: less when others have the rest. 0 lets go; so does a holder that does not come back in time."""
        ...

    async def close(self) -> None:
        """Let go of connections."""
        ...


class Bus(Protocol):
    """Tells other processes that something changed. Never what: whoever hears looks it up in the table."""

    def publish(self, topic: str) -> None:
        """Raises DependencyFault."""
        ...

    async def listen(self, heard: Callable[[str], None]) -> None:
        """Call `heard` with each topic, and with "" when some may have been missed. Ends with DependencyFault."""
        ...


class Fetch(Protocol):
    """Bounded exchange with a configured URL: https (or loopback), no redirects. Raises DependencyFault."""

    async def get_json(self, url: str) -> bytes: ...
    async def post_form(self, url: str, form: Mapping[str, str], user: str, password: str) -> bytes:
        """The JSON answer to a form, sent with these credentials (RFC 6749 section 2.3.1, HTTP Basic)."""
        ...


class Post(Protocol):
    """Bounded exchange of JSON with a configured URL, as Fetch. Raises DependencyFault."""

    async def post_json(self, url: str, body: bytes, headers: Mapping[str, str]) -> bytes:
        """The body of the answer."""
        ...


class Fetched(NamedTuple):
    """An answer of another server: header names in lower case, several values of one joined by ", "."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Exchange(Protocol):
    """Bounded exchange with an address that somebody else named: what it resolves to is checked, and that very address
    is connected to; no redirects, no proxies. Any status is an answer. Raises DependencyFault for everything else."""

    async def get(self, url: str, accept: str = "application/json") -> Fetched: ...
    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> Fetched: ...


class KeyWrap(Protocol):
    """Holds key-encryption keys and never shows them. May wait for a device or a network. Raises DependencyFault,
    ConfigFault."""

    def wrap(self, key: bytes, context: bytes) -> bytes:
        """`key` sealed under the newest key-encryption key, bound to `context`."""
        ...

    def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        """The key, whichever key-encryption key sealed it. DependencyFault if it was changed or bound elsewhere."""
        ...

    def older(self, wrapped: Sequence[bytes]) -> list[bool]:
        """Of each, whether another key-encryption key than the newest sealed it. Looked up once, now."""
        ...

    def rotate(self) -> None:
        """Make a new key-encryption key the newest. Older ones still unwrap."""
        ...

    def retire(self, wrapped: bytes) -> None:
        """Give up all key-encryption keys older than the one that sealed this. What they sealed is lost."""
        ...


def owner_of(issuer: str, subject: str) -> str:
    """The name under which what is kept for one person of one tenant (an issuer) is sealed."""
    return f"{len(issuer)}:{issuer}{subject}"


class Sealer(Protocol):
    """Encrypts small secrets for the records, under a key of their owner's. Raises DependencyFault."""

    def seal(self, owner: str, place: str, secret: bytes) -> bytes:
        """`place` says where the secret is kept and what for: it opens nowhere else."""
        ...

    def open(self, owner: str, place: str, sealed: bytes) -> bytes:
        """Raises DependencyFault for what was not sealed for this owner and place, or was changed."""
        ...


class TokenSigner(Protocol):
    """Signs JSON web tokens with the newest of its keys. Raises DependencyFault."""

    def sign(self, kind: str, claims: Mapping[str, object]) -> str:
        """A compact JWS; `kind` is its `typ`, `at+jwt` for an access token (RFC 9068 section 2.1)."""
        ...

    def key_set(self) -> bytes:
        """The JWK set that verifies what was signed and what is still good (RFC 7517 section 5)."""
        ...


class Signer(Protocol):
    """Ed25519 signatures over whole messages."""

    @property
    def name(self) -> str: ...
    @property
    def public_key(self) -> bytes:
        """32 raw bytes."""
        ...

    def sign(self, message: bytes) -> bytes: ...


class Isolator(Protocol):
    """Starts programs in cells. Fails closed: what cannot be confined is not started."""

    @property
    def name(self) -> str: ...

    async def start(self, spec: CellSpec) -> Cell:
        """Run it, with pipes. Raises UpstreamFault. Called in the main thread, which the cell does not outlive."""
        ...

    async def properties(self) -> tuple[Property, ...]:
        """What holds on this machine, each tried. Raises nothing: what fails is a property that does not hold."""
        ...
