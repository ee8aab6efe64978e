"""The nouns of the authorization server: who asks, for what, who agreed, and who signed in. All of it immutable."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from limen.core.ports import owner_of

Source = Literal["configured", "metadata", "registered"]
AuthMethod = Literal["none", "client_secret_basic", "client_secret_post", "private_key_jwt"]


@dataclass(frozen=True, slots=True)
class Client:
    """Who asks for tokens. `source`: an operator wrote it down, its own metadata document says so, or it registered."""

    id: str
    source: Source
    name: str
    redirect_uris: tuple[str, ...]
    localhost_ports: bool = False  # an operator lets the port of `localhost` vary as well
    auth_method: AuthMethod = "none"
    secret_digest: str = field(default="", repr=False)  # SHA-256 of the secret, hexadecimal
    jwks: str = ""  # keys of private_key_jwt, a JWK set
    jwks_uri: str = ""  # or where they are
    grant_types: frozenset[str] = frozenset({"authorization_code", "refresh_token"})
    scopes: frozenset[str] = frozenset()  # all it may ask for; empty: what its resource offers
    uri: str = ""  # a page about it, shown as text
    digest: str = ""  # of all a person relies on: consent to another digest is consent to something else
    verified: bool = False  # an operator vouches for it, or for the host of its document
    warnings: tuple[str, ...] = ()  # ids of what a person should know before consenting


@dataclass(frozen=True, slots=True)
class Asked:
    """What a client asked for, frozen when it was judged: nothing later changes it."""

    client: str
    client_digest: str
    redirect_uri: str
    resource: str  # canonical URI (RFC 8707)
    route: str  # the server or bundle it names
    scopes: tuple[str, ...]
    challenge: str  # S256 code_challenge (RFC 7636)
    state: str = ""  # the client's own, given back as it came
    prompt: str = ""
    max_age: int | None = None
    acr_values: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Ability:
    """One approved tool a client could call, and what approval says of it: for the person who is asked."""

    server: str
    name: str
    effect: str = "unknown"  # "read" | "write" | "destructive" | "unknown", as core.call.Approved


@dataclass(frozen=True, slots=True)
class User:
    """Who signed in at the provider, as its ID token says."""

    issuer: str
    subject: str
    name: str = ""  # for people
    groups: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()
    amr: tuple[str, ...] = ()
    acr: str = ""
    auth_time: int | None = None

    @property
    def owner(self) -> str:
        """Whose data key seals what is kept for this person."""
        return owner_of(self.issuer, self.subject)


@dataclass(frozen=True, slots=True)
class Tokens:
    """What the provider gave for a user. Only ever kept sealed, and never given to a client."""

    access: str = field(default="", repr=False)
    refresh: str = field(default="", repr=False)
    expires: float = 0.0  # seconds since the epoch
    scopes: tuple[str, ...] = ()
    identity: str = field(default="", repr=False)  # the ID token


@dataclass(frozen=True, slots=True)
class SignedIn:
    """The end of the way to the provider and back: what it was for, and who came back in the same browser."""

    purpose: str  # "grant": a client waits; others for the pages of Limen itself
    about: str  # the transaction or handle the purpose gave when the way began
    user: User
    tokens: Tokens = Tokens()
