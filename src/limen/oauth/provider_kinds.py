"""What makes of identity provider differ in when they sign people in, as data.

Sources: learn.microsoft.com "OAuth 2.0 authorization code flow", "ID token claims reference" and the list of AADSTS
error codes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

SIGNED_WITH: Final = ("RS256", "ES256", "PS256", "EdDSA")
_OPENID: Final = frozenset({"openid", "profile", "email", "address", "phone", "offline_access"})
_GUID: Final = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
_CODE: Final = re.compile(r"\bAADSTS[0-9]{4,9}\b")


@dataclass(frozen=True, slots=True)
class ProviderKind:
    """One make. `issuer`: how its issuer names look; named groups are what `pinned` claims of an ID token must say."""

    issuer: re.Pattern[str]
    hint: str = "as the provider's metadata has it"
    algorithms: tuple[str, ...] = (*SIGNED_WITH, "RS384", "RS512", "PS384", "PS512", "ES384", "ES512", "Ed25519")
    takes_resource: bool = True  # may be sent RFC 8707's parameter
    scope: str = "{scope}"  # a scope of ours in the provider's spelling
    forwards: frozenset[str] = frozenset({"prompt", "max_age", "acr_values"})  # of what a client asked (RFC 9470)
    pinned: tuple[tuple[str, str], ...] = ()  # claim -> what it must be
    subject: tuple[str, ...] = ("sub",)  # claims that name a person, joined by "@"
    overage: tuple[str, ...] = ()  # claims that say that groups were left out
    tells: re.Pattern[str] | None = None  # its own code in an error's description

    def scopes(self, asked: Iterable[str], client_id: str) -> tuple[str, ...]:
        """Scopes as the provider spells them. One that is a URI, or of OpenID Connect, is spelled already."""
        return tuple(
            dict.fromkeys(
                one if one in _OPENID or ":" in one else self.scope.format(scope=one, client_id=client_id)
                for one in asked
            )
        )

    def violation(self, issuer: str, claims: Mapping[str, Any]) -> str:
        """The claim that does not agree with the issuer's name; "" when all do."""
        match = self.issuer.match(issuer)
        named = match.groupdict() if match is not None else {}
        return next((name for name, text in self.pinned if claims.get(name) != text.format(**named)), "")

    def key_marks(self, issuer: str) -> frozenset[str] | None:
        """In a key set that serves several tenants, the marks of keys for this one; None where keys have no marks."""
        match = self.issuer.match(issuer)
        tenant = match.groupdict().get("tid") if match is not None else None
        return frozenset({issuer, issuer.replace(tenant, "{tenantid}")}) if tenant else None

    def own_code(self, description: str) -> str:
        """The provider's own code of an error, "" when there is none."""
        match = self.tells.search(description) if self.tells is not None else None
        return match[0] if match is not None else ""


KINDS: Final[Mapping[str, ProviderKind]] = MappingProxyType(
    {
        "generic": ProviderKind(re.compile(r".+\Z", re.DOTALL), overage=("hasgroups",)),
        "entra": ProviderKind(
            re.compile(rf"https?://[^/]+/(?P<tid>{_GUID})/v2\.0\Z"),
            hint="https://login.microsoftonline.com/TENANT/v2.0, where TENANT is a lower-case GUID",
            algorithms=("RS256",),
            takes_resource=False,  # AADSTS9010010: its tokens are asked for by scope
            scope="api://{client_id}/{scope}",
            forwards=frozenset({"prompt", "max_age"}),
            pinned=(("tid", "{tid}"), ("ver", "2.0")),
            subject=("oid", "tid"),  # `sub` is another one for each application
            overage=("hasgroups",),
            tells=_CODE,
        ),
    }
)
