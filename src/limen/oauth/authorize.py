"""Decides whether a client may ask a person for this (OAuth 2.1 section 4.1.1, RFC 7636, RFC 8707, RFC 9470).

First who asks and where the answer would go: until both are known, nobody is sent anywhere (AS-06). From then on every
mistake is the client's to hear.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final

from limen.oauth.model import Asked, Client
from limen.oauth.pkce import CHALLENGE
from limen.oauth.web import SCOPE, OAuthError, Visit, with_query

_LONGEST: Final = 12 << 10  # characters of a request
_LONGEST_STATE: Final = 2048
_LONGEST_URL: Final = 2048
_MOST: Final = 100  # scopes
_MOST_ACR: Final = 8
_MAX_AGE: Final = re.compile(r"[0-9]{1,9}\Z")
_ACR: Final = re.compile(r"[\x21-\x7e]{1,255}\Z")
_PROMPTS: Final = frozenset({"login", "select_account"})  # of these the provider hears; consent is always asked by us
# Other ways to ask, of which a client must hear that they are not ours rather than be read without them.
_NOT_OURS: Final = {
    "request": "request_not_supported",
    "request_uri": "request_uri_not_supported",
    "registration": "registration_not_supported",
    "authorization_details": "invalid_authorization_details",
}


@dataclass(frozen=True, slots=True)
class Offer:
    """One resource of ours. `default`: the scopes of a client that names none."""

    route: str
    scopes: tuple[str, ...] = ()
    default: tuple[str, ...] = ()


class AskedBadly(OAuthError):
    """A mistake the client hears of, at an address that is known to be its own."""

    def __init__(self, code: str, description: str, field: str, client: Client, redirect: str, state: str) -> None:
        super().__init__(code, description)
        self.field, self.client, self.redirect, self.state = field, client, redirect, state


def answer_url(issuer: str, redirect: str, state: str, **parameters: str) -> str:
    """Where the browser goes with an answer, which always says whose it is (RFC 9207)."""
    return with_query(redirect, {**parameters, "state": state, "iss": issuer})


class Judge:
    """`find` knows clients (raises OAuthError), `allowed` their addresses, `offers` our resources by URI."""

    def __init__(
        self,
        find: Callable[[str], Awaitable[Client]],
        allowed: Callable[[Client, str], bool],
        offers: Mapping[str, Offer],
    ) -> None:
        self._find, self._allowed, self._offers = find, allowed, offers

    async def judge(self, visit: Visit) -> tuple[Asked, Client]:
        """What is asked, frozen, and by whom. Raises AskedBadly, and OAuthError for what must not be answered by a
        redirect."""
        if len(visit.query) > _LONGEST:
            raise OAuthError("invalid_request", "The request is too long.", status=414)
        given = visit.parameters()
        if not given.get("client_id"):
            raise OAuthError("invalid_request", "client_id is missing.", detail="client_id: missing")
        client = await self._find(given["client_id"])
        redirect = given.get("redirect_uri", "")
        if not redirect:  # also with one registered: what is not said cannot be compared at the token endpoint
            raise OAuthError("invalid_request", "redirect_uri is missing.", detail="redirect_uri: missing")
        if len(redirect) > _LONGEST_URL or "#" in redirect or not self._allowed(client, redirect):
            raise OAuthError(
                "invalid_request", "redirect_uri is not one of this client's.",
                detail=f"redirect_uri: {redirect[:500]!r} is not one of {', '.join(client.redirect_uris)[:1000]}",
            )  # fmt: skip
        return self._request(given, client, redirect), client

    def device(self, given: Mapping[str, str], client: Client) -> Asked:
        """What a device asks for (RFC 8628 section 3.1): there is no browser to send back. Raises OAuthError."""
        offer = self._offers.get(given.get("resource", ""))
        if offer is None:
            raise OAuthError("invalid_target", "resource must be the URL of one server here")
        scopes = _scopes(given.get("scope", ""), offer, client)
        if scopes is None:
            raise OAuthError("invalid_scope", "a scope that this resource does not offer to this client")
        return Asked(client.id, client.digest, "", given["resource"], offer.route, scopes, "")

    async def same(self, asked: Asked) -> Client:
        """The client, if it still is what the person was shown (OA-44). Raises OAuthError."""
        client = await self._find(asked.client)
        if client.digest != asked.client_digest:
            raise OAuthError(
                "access_denied", "The application has changed since you were asked. Start again from there.",
                detail="client: changed between consent and code",
            )  # fmt: skip
        return client

    def _request(self, given: Mapping[str, str], client: Client, redirect: str) -> Asked:
        state = given.get("state", "")

        def wrong(code: str, description: str, field: str) -> AskedBadly:
            return AskedBadly(code, description, field, client, redirect, state[:_LONGEST_STATE])

        if len(state) > _LONGEST_STATE:
            raise wrong("invalid_request", "state is too long", "state")
        for name, code in _NOT_OURS.items():
            if name in given:
                raise wrong(code, f"{name} is not taken here", name)
        if given.get("response_type") != "code":
            kind = "unsupported_response_type" if "response_type" in given else "invalid_request"
            raise wrong(kind, "response_type must be code", "response_type")
        if given.get("response_mode", "query") != "query":
            raise wrong("invalid_request", "response_mode must be query", "response_mode")
        if "authorization_code" not in client.grant_types:
            raise wrong("unauthorized_client", "this client may not use authorization codes", "grant_types")
        if not CHALLENGE.match(given.get("code_challenge", "")):
            raise wrong("invalid_request", "code_challenge of RFC 7636 is required, S256", "code_challenge")
        if given.get("code_challenge_method") != "S256":  # left out it would mean plain
            raise wrong("invalid_request", "code_challenge_method must be S256", "code_challenge_method")
        offer = self._offers.get(given.get("resource", ""))
        if offer is None:
            text = "resource must be the URL of one server here" if "resource" in given else "resource is required"
            raise wrong("invalid_target", text, "resource")
        scopes = _scopes(given.get("scope", ""), offer, client)
        if scopes is None:
            raise wrong("invalid_scope", "a scope that this resource does not offer to this client", "scope")
        try:
            prompt, max_age, acr_values = _strength(given)
        except ValueError as error:
            raise wrong("invalid_request", str(error), str(error).partition(" ")[0]) from None
        if prompt == "none":
            raise wrong("interaction_required", "consent is always asked", "prompt")
        return Asked(
            client.id, client.digest, redirect, given["resource"], offer.route, scopes, given["code_challenge"], state,
            prompt, max_age, acr_values,
        )  # fmt: skip


def _scopes(text: str, offer: Offer, client: Client) -> tuple[str, ...] | None:
    """What is asked of what is offered to this client; None when it asks for more (OA-33)."""
    offered = [one for one in offer.scopes if not client.scopes or one in client.scopes]
    # Between a client and us: it says that the client wants refresh tokens, which it gets by its grant types.
    named = [one for one in text.split(" ") if one != "offline_access"] if text else []
    if not named:
        return tuple(one for one in offer.default if one in offered)
    if len(named) > _MOST or not all(SCOPE.match(one) for one in named) or not set(named) <= set(offered):
        return None
    return tuple(dict.fromkeys(named))


def _strength(given: Mapping[str, str]) -> tuple[str, int | None, tuple[str, ...]]:
    """How fresh and how strong the sign-in should be (RFC 9470 section 4). Raises ValueError; its message begins with
    the parameter."""
    prompts = given.get("prompt", "").split()
    if "none" in prompts:
        return "none", None, ()
    if not set(prompts) <= _PROMPTS | {"consent"}:
        raise ValueError("prompt holds something else than login, select_account and consent")
    age, levels = given.get("max_age", ""), given.get("acr_values", "").split(" ")
    if age and not _MAX_AGE.match(age):
        raise ValueError("max_age is not a number of seconds")
    named = tuple(dict.fromkeys(one for one in levels if one))
    if len(named) > _MOST_ACR or not all(_ACR.match(one) for one in named):
        raise ValueError("acr_values holds too many, or something that is none")
    prompt = " ".join(one for one in dict.fromkeys(prompts) if one in _PROMPTS)
    return prompt, int(age) if age else None, named
