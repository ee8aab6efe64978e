"""The pages on which a person connects an account at a server behind us. Decides nothing: who may is decided by what
it is given, and the answers are shown.

GET a link -> sign in at the provider -> one page with one button -> the server's authorization server -> back.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Protocol

import orjson

from limen.core.faults import DependencyFault
from limen.core.reasons import REASONS, Reason
from limen.core.verdict import Refuse
from limen.oauth.connect_page import ask
from limen.oauth.model import SignedIn
from limen.oauth.own_page import foreign, origin_of
from limen.oauth.recorder import Recorder
from limen.oauth.web import OAuthError, Reply, Visit

PURPOSE: Final = "connect"
PATH: Final = "/oauth/connect/"
_UNUSABLE: Final = REASONS["credentials.unusable"]
_LINK: Final = REASONS["credentials.link"]


class Shown(Protocol):
    """What a person is asked. `token` proves that the page was rendered to them."""

    @property
    def id(self) -> str: ...
    @property
    def token(self) -> str: ...
    @property
    def server(self) -> str: ...
    @property
    def host(self) -> str: ...
    @property
    def scopes(self) -> tuple[str, ...]: ...
    @property
    def name(self) -> str: ...


class Made(Protocol):
    """A connection that was made: of which server, with which host."""

    @property
    def server(self) -> str: ...
    @property
    def host(self) -> str: ...


class Links(Protocol):
    """Who may connect what. All of them raise DependencyFault."""

    def opened(self, server: str, handle: str) -> str | Refuse: ...
    async def recognised(self, id: str, issuer: str, subject: str, name: str, browser: str) -> Any: ...
    async def approved(self, server: str, id: str, shown: str, browser: str) -> str | Refuse: ...
    async def declined(self, server: str, id: str, shown: str, browser: str) -> Refuse: ...
    async def finished(self, answer: Mapping[str, str], browser: str) -> Any: ...


class Desk(Protocol):
    """Knows browsers by a cookie, and has the pages that are the same everywhere."""

    def meet(self, visit: Visit) -> tuple[str, tuple[tuple[str, str], ...]]:
        """Digest of the cookie this browser has, or of one it gets with these headers."""
        ...

    def browser(self, visit: Visit) -> str:
        """Digest of the cookie this browser has, or ""."""
        ...

    def leave(self, url: str) -> Reply: ...
    def done(self, title: str, text: str) -> Reply: ...
    def error(self, error: OAuthError) -> Reply: ...


Begin = Callable[[str, str, str], Awaitable[tuple[str, tuple[tuple[str, str], ...]]]]
Work = Callable[[Callable[[], Any]], Awaitable[Any]]


class Connect:
    """Handlers. `issuer`: our own, `document`: our client metadata, `begin`: the way to the provider
    (`Provider.begin`), `threaded`: runs what waits for a database, `may` raises OAuthError for who comes too often:
    whoever has a link could go on to the provider with it as often as they like."""

    def __init__(
        self,
        links: Links,
        begin: Begin,
        desk: Desk,
        recorder: Recorder,
        issuer: str,
        document: Mapping[str, Any],
        threaded: Work,
        may: Callable[[Visit], Awaitable[None]],
    ) -> None:
        self._links, self._begin, self._desk, self._recorder = links, begin, desk, recorder
        self._issuer, self._document, self._threaded = issuer, orjson.dumps(document), threaded
        self._may = may
        self._origin = origin_of(issuer)

    async def page(self, visit: Visit) -> Reply:
        """`/oauth/connect/<server>`: the link (GET) and the answer to our page (POST)."""
        try:
            await self._may(visit)
            if visit.method == "GET":
                return await self._opened(visit)
            if visit.method == "POST":
                return await self._answered(visit)
        except OAuthError as error:
            return self._desk.error(error)
        except DependencyFault as fault:
            return self._say(visit, _UNUSABLE, str(fault))
        return Reply(405, b"", (("allow", "GET, POST"),))

    async def _opened(self, visit: Visit) -> Reply:
        if not visit.secure:
            raise OAuthError("invalid_request", "this page needs a connection with TLS")
        server, handle = visit.path.removeprefix(PATH), visit.parameters().get("handle", "")
        id = await self._threaded(lambda: self._links.opened(server, handle))
        if isinstance(id, Refuse):
            return self._refused(visit, id)
        browser, cookies = self._desk.meet(visit)
        url, more = await self._begin(PURPOSE, id, browser)
        self._recorder.note(PURPOSE, "ok", visit=visit, transaction=id[:12], detail=f"{server}: opened, to sign in")
        return Reply(302, b"", (("location", url), *cookies, *more))

    async def signed_in(self, signed: SignedIn, visit: Visit) -> Reply:
        """Continuation of the purpose "connect": the person is known now; is it their link?"""
        user = signed.user
        try:
            browser = self._desk.browser(visit)
            shown = await self._links.recognised(signed.about, user.issuer, user.subject, user.name, browser)
        except DependencyFault as fault:
            return self._say(visit, _UNUSABLE, str(fault))
        if isinstance(shown, Refuse):
            return self._refused(visit, shown, user.subject)
        return ask(self._issuer, PATH, shown.id, shown.token, shown.server, shown.host, shown.scopes, shown.name)

    async def _answered(self, visit: Visit) -> Reply:
        """Only from our own page: by Fetch Metadata, Origin, and what was put into the form for this browser."""
        if (stranger := foreign(visit, self._origin)) is not None:
            field, detail = stranger
            return self._say(visit, REASONS["credentials.stranger"], detail, field)
        server, form, browser = visit.path.removeprefix(PATH), visit.parameters(), self._desk.browser(visit)
        asked = (server, form.get("id", ""), form.get("token", ""), browser)
        if form.get("decision") != "allow":
            return self._refused(visit, await self._links.declined(*asked))
        url = await self._links.approved(*asked)
        if isinstance(url, Refuse):
            return self._refused(visit, url)
        self._recorder.note(
            PURPOSE, "ok", visit=visit, transaction=asked[1][:12], detail=f"{server}: on to its sign-in"
        )
        return self._desk.leave(url)

    async def connected(self, visit: Visit) -> Reply:
        """`/oauth/connected`: the answer of the server's authorization server."""
        try:
            if visit.method != "GET":
                return Reply(405, b"", (("allow", "GET"),))
            made = await self._links.finished(visit.parameters(), self._desk.browser(visit))
        except OAuthError as error:
            self._recorder.note(PURPOSE, error.code, visit=visit, detail=error.detail)
            return self._desk.error(OAuthError("invalid_request", _LINK.public))  # nothing of the answer is shown
        except DependencyFault as fault:
            return self._say(visit, _UNUSABLE, str(fault))
        if isinstance(made, Refuse):
            return self._refused(visit, made)
        self._recorder.note(PURPOSE, "ok", visit=visit, detail=f"{made.server}: connected at {made.host}")
        text = f"{made.server} can now be used with your account at {made.host}. Go back to your application."
        return self._desk.done("Connected", text)

    async def document(self, visit: Visit) -> Reply:
        """`/oauth/client`: our Client ID Metadata Document."""
        if visit.method not in ("GET", "HEAD"):
            return Reply(405, b"", (("allow", "GET, HEAD"),))
        return Reply(200, self._document, (("content-type", "application/json"), ("cache-control", "max-age=300")))

    def _refused(self, visit: Visit, refused: Refuse, user: str = "") -> Reply:
        return self._say(visit, refused.reason, refused.detail, user=user)

    def _say(self, visit: Visit, reason: Reason, detail: str, field: str = "", user: str = "") -> Reply:
        """What went wrong in our own words; what the other side wrote is for the operator only."""
        self._recorder.note(PURPOSE, reason.id, visit=visit, field=field, detail=detail[:500], user=user)
        code = "access_denied" if reason.status == 403 else "invalid_request"
        return self._desk.error(OAuthError(code, reason.public, status=reason.status, detail=detail))
