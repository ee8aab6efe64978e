"""Asks a person in their browser, and believes an answer only from the browser, and of the page, that was asked.

The cookie holds nothing but a random number and its MAC: 87 characters, whatever happens (OA-05). The form holds a MAC
over that number, the transaction and the scopes on offer, so an answer counts in the browser the page was rendered to,
for what that page showed (OA-03, OA-06, OA-09). That an answer counts once is the transaction's to see to.
"""

from __future__ import annotations

import hmac
import re
import secrets
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from limen.core.encoding import digest, encode_base64url
from limen.core.faults import ConfigFault
from limen.oauth.model import Ability, Asked, Client
from limen.oauth.own_page import foreign, framed, origin_of
from limen.oauth.page import Question, consent_page, message_page, onward_page
from limen.oauth.recorder import Recorder
from limen.oauth.settings import ConsentSettings, ProviderSettings
from limen.oauth.web import OAuthError, Reply, Visit

COOKIE: Final = "__Host-limen-browser"
MOST_SCOPES: Final = 40  # more boxes are a question nobody reads
_SIZE: Final = 32  # bytes of the key
_VALUE: Final = re.compile(r"([A-Za-z0-9_-]{43})\.([A-Za-z0-9_-]{43})\Z")
_BOX: Final = re.compile(r"scope\.(0|[1-9][0-9]?)\Z")
_MEMBERS: Final = frozenset({"transaction", "offered", "needed", "csrf", "decision"})
_ONWARD: Final = re.compile(r"[!#-;=?-~]+\Z")  # ASCII that shows, without " < >
_NOWHERE: Final = frozenset(
    {"", "javascript", "data", "vbscript", "file", "blob", "about", "view-source", "filesystem"}
)
_ALERTS: Final = 60  # a minute: whoever sends nonsense does not fill the log
Can = Callable[[str, Sequence[str]], Sequence[Ability]]  # of a route, with these scopes


@dataclass(frozen=True, slots=True)
class Decision:
    """What a person answered. `browser` is the digest of the cookie it came with."""

    transaction: str
    approved: bool
    browser: str
    scopes: tuple[str, ...]  # those that were offered and not left out, in the order they were asked for


class Asking:
    """Consent page, its answer, and the pages around it. `key`: 32 bytes all replicas share."""

    def __init__(
        self,
        issuer: str,
        key: bytes,
        provider: ProviderSettings,
        settings: ConsentSettings,
        recorder: Recorder,
        record: Callable[[str, Mapping[str, Any]], None],
        can: Can,
        needed: Callable[[str], Collection[str]] = lambda route: (),  # scopes without which a route is of no use
        now: Callable[[], float] = time.time,
    ) -> None:
        if len(key) != _SIZE:
            raise ConfigFault(f"the key that binds answers to browsers has {_SIZE} bytes", "oauth.consent")
        self._issuer, self._key, self._provider, self._settings = issuer, key, provider, settings
        self._recorder, self._record, self._can, self._needed, self._now = recorder, record, can, needed, now
        self._origin = origin_of(issuer)
        self._minute, self._alerts, self._untold = 0.0, 0, 0

    def page(self, visit: Visit, transaction: str, asked: Asked, client: Client, *, device: str = "") -> Reply:
        """Ask whether `client` may have what it asked for. `device`: what waits for it, if not a browser; not shown.

        Raises OAuthError for a connection others can read, for a page inside another one (OA-07), and for more scopes
        than a person reads; DependencyFault when what the client could do cannot be found out.
        """
        if not visit.secure:
            raise OAuthError("invalid_request", "This page needs a connection with TLS.")
        if framed(visit):
            raise self._refused(visit, "sec-fetch-dest", "asked for inside another page", transaction)
        if len(asked.scopes) > MOST_SCOPES:
            raise OAuthError("invalid_scope", f"More than {MOST_SCOPES} scopes at once.")
        value, cookies = self._met(visit)
        needed = frozenset(self._needed(asked.route)) & frozenset(asked.scopes)
        hidden = {
            "transaction": transaction,
            "offered": " ".join(asked.scopes),
            "needed": " ".join(scope for scope in asked.scopes if scope in needed),
        }
        hidden["csrf"] = self._mac("answer", value, *hidden.values())
        question = Question(
            asked, client, self._can(asked.route, asked.scopes), needed, self._settings.explain,
            self._settings.expires, self._issuer, self._provider.issuer, self._provider.scopes, hidden,
            bool(device),
        )  # fmt: skip
        self._recorder.note(
            "consent", "ok", visit=visit, client=client.id, resource=asked.resource, transaction=transaction,
            detail="asked",
        )  # fmt: skip
        return consent_page(question, *cookies)

    def decided(self, visit: Visit) -> Decision:
        """The answer to a page of ours. Raises OAuthError 403 for any other, and 405 for what is no form."""
        if visit.method != "POST":
            raise OAuthError("invalid_request", "An answer is sent by the form of the page.", status=405)
        try:
            stranger, form = foreign(visit, self._origin), visit.parameters()
        except OAuthError as error:
            raise self._refused(visit, "form", error.detail) from None
        if stranger is not None:
            raise self._refused(visit, *stranger)
        transaction = form.get("transaction", "")
        value = self._presented(visit)
        if not value:
            raise self._refused(visit, "cookie", "from a browser no page was shown to", transaction)
        bound = self._mac("answer", value, transaction, form.get("offered", ""), form.get("needed", ""))
        if not transaction or not hmac.compare_digest(form.get("csrf", "").encode(), bound.encode()):
            raise self._refused(visit, "csrf", "not what was put into a form for this browser", transaction)
        offered, needed = form.get("offered", "").split(), form.get("needed", "").split()
        boxes = {int(found[1]) for name in form if (found := _BOX.match(name)) is not None}
        stray = [name for name in form if name not in _MEMBERS and _BOX.match(name) is None]
        if stray or form.get("decision") not in ("allow", "deny") or any(box >= len(offered) for box in boxes):
            raise self._refused(visit, "form", "members that the form does not have", transaction)
        approved = form["decision"] == "allow"
        scopes = tuple(scope for box, scope in enumerate(offered) if approved and (box in boxes or scope in needed))
        self._recorder.note(
            "consent", "ok" if approved else "access_denied", visit=visit, transaction=transaction,
            detail="allowed" if approved else "denied by the person who was asked",
        )  # fmt: skip
        return Decision(transaction, approved, digest(value), scopes)

    def browser(self, visit: Visit) -> str:
        """SHA-256 of what the browser was given, hexadecimal; "" for a browser that no page was shown to."""
        value = self._presented(visit)
        return digest(value) if value else ""

    def meet(self, visit: Visit) -> tuple[str, tuple[tuple[str, str], ...]]:
        """The same; a browser that had nothing yet gets it with these headers."""
        value, cookies = self._met(visit)
        return digest(value), cookies

    def leave(self, url: str, cookies: Sequence[str] = ()) -> Reply:
        """Send the browser on to `url`, with values of Set-Cookie.

        A page and no redirect: Chromium holds a redirect that answers a form to the `form-action` of the form's page.
        Raises OAuthError for a URL that would run here, or end the header it is put into.
        """
        scheme = urlsplit(url).scheme if _ONWARD.match(url) else ""
        if scheme in _NOWHERE:
            raise OAuthError("invalid_request", "There is no safe way on from here.", status=500, detail=url[:200])
        return onward_page(self._issuer, url, *(("set-cookie", cookie) for cookie in cookies))

    def done(self, title: str, text: str) -> Reply:
        """The end of a way that leads nowhere else, such as after a device was connected."""
        return message_page(self._issuer, title, text)

    def error(self, error: OAuthError) -> Reply:
        """What went wrong, to the person who sees it; the detail stays with the operator."""
        words = error.description or "It cannot be said here why; the operator of this gateway can see it."
        title = "This did not work" if error.status < 500 else "This does not work at the moment"
        return message_page(self._issuer, title, words, code=error.code, status=error.status)

    def _met(self, visit: Visit) -> tuple[str, tuple[tuple[str, str], ...]]:
        value = self._presented(visit)
        if value:
            return value, ()
        value = encode_base64url(secrets.token_bytes(_SIZE))
        attributes = "Path=/; Secure; HttpOnly; SameSite=Lax"
        return value, (("set-cookie", f"{COOKIE}={value}.{self._mac('browser', value)}; {attributes}"),)

    def _presented(self, visit: Visit) -> str:
        """The random number of the browser's cookie; "" unless it is one of ours, whole and unchanged (OA-06)."""
        cookie = visit.cookie(COOKIE)
        parts = _VALUE.match(cookie)
        if parts is None or not hmac.compare_digest(self._mac("browser", parts[1]), parts[2]):
            if cookie:
                self._alert("consent.cookie", visit, "cookie", "not one of ours, or changed", "")
            return ""
        return parts[1]

    def _mac(self, purpose: str, *parts: str) -> str:
        text = "\0".join((purpose, *parts))  # no part can hold a NUL: forms with one are refused
        return encode_base64url(hmac.digest(self._key, text.encode(), "sha256"))

    def _refused(self, visit: Visit, field: str, detail: str, transaction: str = "") -> OAuthError:
        self._recorder.note(
            "consent", "access_denied", visit=visit, transaction=transaction, field=field, detail=detail
        )
        self._alert("consent.forged", visit, field, detail, transaction)
        words = "This does not belong to a page that was shown in this browser. Start again from the application."
        return OAuthError("access_denied", words, status=403, detail=f"{field}: {detail}")

    def _alert(self, event: str, visit: Visit, field: str, detail: str, transaction: str) -> None:
        now = self._now()
        if not 0 <= now - self._minute < 60:
            self._minute, self._alerts = now, 0
        if self._alerts >= _ALERTS:
            self._untold += 1
            return
        self._alerts += 1
        members: dict[str, Any] = {"event": event, "severity": "high", "field": field, "detail": detail[:200]}
        members.update(address=visit.address, transaction=transaction[:64], path=visit.path[:64])
        if self._untold:
            members["held_back"], self._untold = self._untold, 0
        self._record("security", members)
