"""Signs tokens as Microsoft Entra ID and Azure AD B2C do, of both versions, and the ones people mistake for them.

sim = Entra(); token = sim.v2(scp="Files.Read"); world = sim.world(tenants=[TENANT])
"""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any

from limen.core.call import Caller, Presented
from limen.core.verdict import Pass, Refuse, Verdict
from limen.identity.authenticate import Authenticate
from limen.identity.issuers import IdentitySettings, Issuers
from minting import NOW, RESOURCE, Clock, FakeFetch, Key, b64, context, dump, without

TENANT = "11111111-aaaa-4bbb-8ccc-000000000001"
PARTNER = "22222222-aaaa-4bbb-8ccc-000000000002"
STRANGER = "99999999-aaaa-4bbb-8ccc-000000000009"
API = "77777777-aaaa-4bbb-8ccc-000000000007"  # client id of the registration that stands for Limen
APP_URI = f"api://{API}"
CLIENT = "55555555-aaaa-4bbb-8ccc-000000000005"
OID = "33333333-aaaa-4bbb-8ccc-000000000003"
V2, V1 = "https://login.microsoftonline.com/{tid}/v2.0", "https://sts.windows.net/{tid}/"
B2C = "https://contoso.b2clogin.com/{tid}/v2.0/"
LOGIN = "https://login.microsoftonline.com"


class Entra:
    """The key set all tenants share, and tokens for any of them."""

    def __init__(self) -> None:
        self.shared = Key("RS256", kid="shared")
        self.own = Key("RS256", kid="own")  # marked for PARTNER alone
        self.thief = Key("RS256", kid="shared")  # another key under the same name
        self.fetch = FakeFetch()
        self.clock = Clock()
        keys = [
            {**self.shared.jwk, "issuer": V2.replace("{tid}", "{tenantid}")},
            {**self.own.jwk, "issuer": V2.replace("{tid}", PARTNER)},
        ]
        for tenant in (TENANT, PARTNER, STRANGER):
            self._announce(f"{LOGIN}/{tenant}/v2.0", V2.format(tid=tenant), keys)
            bare = [{name: key[name] for name in key if name != "issuer"} for key in keys[:1]]  # v1 keys bear no mark
            self._announce(f"{LOGIN}/{tenant}", V1.format(tid=tenant), bare)
            flow = f"https://contoso.b2clogin.com/{tenant}/B2C_1_in/v2.0"
            self._announce(flow, B2C.format(tid=tenant), bare)

    def _announce(self, place: str, issuer: str, keys: list[dict[str, Any]]) -> None:
        uri = f"{place}/keys"
        self.fetch.documents[f"{place}/.well-known/openid-configuration"] = {"issuer": issuer, "jwks_uri": uri}
        self.fetch.documents[uri] = {"keys": keys}

    def world(self, issuer: str = V2, audience: Any = API, **settings: Any) -> EntraWorld:
        """A gateway that trusts TENANT and PARTNER, unless told otherwise."""
        mine = {name: settings.pop(name) for name in list(settings) if name in IdentitySettings.model_fields}
        tenants = {"tenants": (TENANT, PARTNER)} if "{tid}" in issuer else {}
        one = {"issuer": issuer, "kind": "entra", "audience": audience, **tenants, **settings}
        return EntraWorld(self, IdentitySettings.model_validate({"issuers": [one], **mine}))

    def sign(self, claims: dict[str, Any], key: Key | None = None, **header: Any) -> str:
        key = key or self.shared
        return key.sign(key.header(**{"typ": "JWT", **header}), claims)

    def v2(self, tenant: str = TENANT, key: Key | None = None, **changes: Any) -> str:
        """A delegated v2.0 access token: someone signed in to a client that calls us."""
        return self.sign(self.claims_v2(tenant, **changes), key)

    def v1(self, tenant: str = TENANT, key: Key | None = None, **changes: Any) -> str:
        """The same, v1.0: what registrations get whose manifest does not say requestedAccessTokenVersion 2."""
        honest = self._common(tenant) | {
            "iss": V1.format(tid=tenant), "aud": APP_URI, "ver": "1.0", "appid": CLIENT, "appidacr": "0", "acr": "1",
            "amr": ["pwd"], "upn": "alice@contoso.example",
        }  # fmt: skip
        return self.sign(without({**honest, **changes}), key)

    def claims_v2(self, tenant: str = TENANT, **changes: Any) -> dict[str, Any]:
        honest = self._common(tenant) | {
            "iss": V2.format(tid=tenant), "aud": API, "ver": "2.0", "azp": CLIENT, "azpacr": "0",
            "preferred_username": "alice@contoso.example", "aio": "x", "rh": "y", "xms_cc": ["CP1"],
        }  # fmt: skip
        return without({**honest, **changes})

    def app(self, tenant: str = TENANT, **changes: Any) -> str:
        """An app-only token (client credentials): no scp, roles an administrator assigned."""
        return self.v2(
            tenant,
            **{"scp": None, "idtyp": "app", "azpacr": "1", "roles": ["Files.Read.All"], "sub": CLIENT, "oid": CLIENT}
            | changes,
        )

    def b2c(self, tenant: str = TENANT, **changes: Any) -> str:
        """A B2C token: policy in `tfp`, no tid, and `ver` 1.0 under a v2.0 issuer."""
        honest = {
            "iss": B2C.format(tid=tenant), "aud": API, "sub": OID, "oid": OID, "tfp": "B2C_1_in", "azp": CLIENT,
            "scp": "Files.Read", "ver": "1.0", "exp": NOW + 3600, "nbf": NOW, "iat": NOW,
        }  # fmt: skip
        return self.sign(without({**honest, **changes}))

    def graph(self) -> str:
        """A token for Microsoft Graph: its header has a `nonce`, and its digest is what is signed."""
        claims = self.claims_v2(aud="00000003-0000-0000-c000-000000000000", scp="User.Read")
        hidden = b64(hashlib.sha256(b"nonce").digest())
        signed = self.shared.sign(self.shared.header(typ="JWT", nonce=hidden), claims)
        shown = b64(dump(self.shared.header(typ="JWT", nonce="nonce")))
        return ".".join([shown, *signed.split(".")[1:]])

    def id_token(self, **changes: Any) -> str:
        """What the registration itself gets when it signs somebody in: same issuer, keys and audience as our tokens."""
        changes = {"scp": None, "azp": None, "azpacr": None, "name": "Alice", **changes}
        return self.v2(**changes)

    @staticmethod
    def _common(tenant: str) -> dict[str, Any]:
        return {
            "sub": "pairwise-1", "oid": OID, "tid": tenant, "scp": "Files.Read", "exp": NOW + 4500, "nbf": NOW - 300,
            "iat": NOW - 300, "uti": "u",
        }  # fmt: skip


class EntraWorld:
    """Authenticate in front of the simulated tenants."""

    def __init__(self, sim: Entra, settings: IdentitySettings) -> None:
        self.settings, self.issuers = settings, Issuers(settings, sim.fetch, sim.clock)
        self.guard = Authenticate(self.issuers, {"hr": RESOURCE}, settings)

    def judge(self, token: str) -> Verdict:
        """Keys are fetched first; a fresh loop per question."""

        async def run() -> Verdict:
            await self.issuers.warm()
            answer = self.guard.check(context(Presented((f"Bearer {token}".encode(),), RESOURCE)))
            return answer if isinstance(answer, Pass | Refuse) else await answer

        return asyncio.run(run())

    def caller(self, token: str) -> Caller:
        verdict = self.judge(token)
        assert isinstance(verdict, Pass), verdict.detail
        (fact,) = verdict.facts
        assert isinstance(fact, Caller)
        return fact

    def refusal(self, token: str) -> tuple[str, str]:
        """Reason and detail."""
        verdict = self.judge(token)
        assert isinstance(verdict, Refuse), "it passed"
        return verdict.reason.id, verdict.detail
