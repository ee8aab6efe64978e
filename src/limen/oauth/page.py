"""The pages people see while they sign in: HTML built from values, each escaped where it is put in. No script."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from types import MappingProxyType
from typing import Final
from urllib.parse import urlsplit

from limen.oauth.model import Ability, Asked, Client
from limen.oauth.shown import address, counted, disguised, duration, host_of, shown, stays_here
from limen.oauth.style import ALLOWED, STYLE
from limen.oauth.web import Reply

_NAMED: Final = 12  # tools of one effect that are listed by name; the rest is counted
_NAME: Final = 80  # characters of a client's name
_POLICY: Final = (
    "default-src 'none'; style-src {style}; img-src 'none'; form-action {form}; base-uri 'none'; frame-ancestors 'none'"
)
_OFF: Final = ("accelerometer", "camera", "clipboard-read", "clipboard-write", "display-capture", "fullscreen",
    "geolocation", "gyroscope", "hid", "identity-credentials-get", "magnetometer", "microphone", "midi", "payment",
    "publickey-credentials-get", "screen-wake-lock", "serial", "storage-access", "usb", "web-share",
    "xr-spatial-tracking")  # fmt: skip
_HEADERS: Final = (
    ("content-type", "text/html; charset=utf-8"),
    ("x-frame-options", "DENY"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
    ("permissions-policy", ", ".join(f"{feature}=()" for feature in _OFF)),
    ("x-robots-tag", "noindex"),
)
_EFFECTS: Final = (
    ("destructive", "delete or overwrite things for good"),
    ("unknown", "do things nobody has classified"),
    ("write", "change or create things"),
    ("read", "read things"),
)
SCOPES: Final = MappingProxyType(
    {
        "openid": "Learn which account you sign in with.",
        "profile": "Learn your name.",
        "email": "Learn your e-mail address.",
        "offline_access": "Stay connected while you are away, until this consent ends.",
    }
)
_HERE: Final = (
    "The answer goes to a program on the computer you are using. Any program there can give itself the name shown "
    "here: go on only if you have just started this yourself."
)
WARNINGS: Final = MappingProxyType(
    {
        "loopback_only": _HERE,
        "localhost": _HERE,
        "private_scheme": "The answer goes to an app on this device, by a kind of address that any other app can claim "
        "as well: go on only if you have just started this yourself.",
        "name_disguised": "The name holds characters that do not show, or that look like others. Honest names rarely "
        "do.",
        "international": "An address below is written in another alphabet than it seems, or looks like another one. "
        "Compare it letter by letter.",
        "foreign_redirect": "The answer goes to another site than the one that says what this application is.",
        "foreign_page": "It points to pages of other sites as if they were its own.",
        "unverified": "Nobody here has checked who this is.",
        "lookalike": "Its name or address can be taken for this one, and nothing shows that it is theirs:",
        "device": "You are about to connect another device. Never go on with a code that somebody sent you.",
        "everywhere": "This asks for every server behind this gateway, not for one.",
    }
)


@dataclass(frozen=True, slots=True)
class Question:
    """Everything the consent page shows, and what its form sends back."""

    asked: Asked
    client: Client
    abilities: Sequence[Ability]
    needed: frozenset[str]  # scopes that cannot be left out
    explain: Mapping[str, str]
    holds: int  # seconds
    issuer: str
    provider: str  # issuer that signs the person in
    provider_scopes: Sequence[str]
    hidden: Mapping[str, str]  # members of the form
    device: bool = False  # for one the person typed the code of


def consent_page(question: Question, *headers: tuple[str, str]) -> Reply:
    """The question, and two buttons. The first one denies: it is what Enter presses."""
    client, asked = question.client, question.asked
    route = f"the server “{shown(asked.route)}”" if asked.route else "all servers"
    called = shown(client.name or "An application without a name", _NAME)
    who = called if client.verified else f"an application that calls itself “{called}”"
    body = [
        f'<h1 id="title">Allow {who} to use {route} as you?</h1>',
        f'<p class="lead">{_vouched(client)}</p>',
        _warnings(question),
        _who(question),
        _tools(question.abilities),
        '<form method="post" action="/oauth/consent" autocomplete="off">',
        *(f'<input type="hidden" name="{escape(k)}" value="{escape(v)}">' for k, v in question.hidden.items()),
        _scopes(question),
        _next(question),
        '<div class="answer"><button name="decision" value="deny">Deny</button>'
        '<button class="yes" name="decision" value="allow">Allow</button></div>'
        '<p class="note">If you deny, the application is told no, and nothing else happens.</p></form>',
    ]
    return _page(question.issuer, "Allow access?", "".join(body), "'self'", 200, *headers)


def onward_page(issuer: str, url: str, *headers: tuple[str, str]) -> Reply:
    """Goes on to `url`, which is plain ASCII without quotes, and has a link for browsers that do not by themselves."""
    where = escape(host_of(url)) or f"an app ({escape(urlsplit(url).scheme)}:)"
    body = (
        f'<h1 id="title">On to {where}</h1><p>Your browser goes there by itself. If it does not, follow the link.</p>'
        f'<p><a class="go" rel="noreferrer" href="{escape(url)}">Go on to {where}</a></p>'
    )
    return _page(issuer, "Going on", body, "'none'", 200, ("refresh", f"0; url={url}"), *headers)


def message_page(issuer: str, title: str, text: str, *, code: str = "", status: int = 200) -> Reply:
    """The end of a way, good or bad: what happened, and for whoever helps, its code."""
    aside = f'<p class="note">Code for whoever helps you: <b>{shown(code, 64)}</b></p>' if code else ""
    role = ' role="alert"' if status >= 400 else ' role="status"'
    body = f'<h1 id="title">{shown(title, 120)}</h1><p{role}>{shown(text, 400)}</p>{aside}'
    return _page(issuer, escape(title[:120]), body, "'none'", status)


def _page(issuer: str, title: str, body: str, form: str, status: int, *headers: tuple[str, str]) -> Reply:
    html = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta name="color-scheme" content="light dark"><title>{title} – Limen</title><style>{STYLE}</style></head>'
        f'<body><main aria-labelledby="title"><p class="brand"><b>Limen</b> at {escape(host_of(issuer))}</p>{body}'
        "</main></body></html>"
    )
    policy = ("content-security-policy", _POLICY.format(style=ALLOWED, form=form))
    return Reply(status, html.encode(), (*_HEADERS, policy, *headers))


def _vouched(client: Client) -> str:
    """Who says that the client is what it says."""
    yes, no = '<span class="mark">Verified</span>', '<span class="mark no">Unverified</span>'
    if client.source == "configured":
        return f"{yes}The administrator of this gateway registered it."
    host = escape(host_of(client.id))
    if client.source == "metadata" and client.verified:
        return f"{yes}The administrator of this gateway trusts {host}, which says what it is."
    if client.source == "metadata":
        return f"{no}A page at <b>{host}</b> says what it is. Nobody here has checked it."
    if client.verified:
        return f"{yes}It registered itself, and the administrator of this gateway trusts it."
    return f"{no}It chose its name itself. Nobody has checked it."


def _found(question: Question) -> list[str]:
    """Ids of what a person should know: what was found about the client before, and what is seen here."""
    asked, client = question.asked, question.client
    marked = client.source != "configured" and not client.verified  # as unverified, above
    found = [one for one in client.warnings if one != "unverified" or not marked]
    target = urlsplit(asked.redirect_uri)
    if asked.redirect_uri and stays_here(asked.redirect_uri):
        found = ["loopback_only", *(one for one in found if one != "localhost")]
    elif asked.redirect_uri and target.scheme not in ("https", "http"):
        found.append("private_scheme")
    if disguised(client.name):
        found.append("name_disguised")
    hosts = (host_of(asked.redirect_uri), host_of(client.id) if client.source == "metadata" else "")
    if any(label.startswith("xn--") for host in hosts for label in host.split(".")):
        found.append("international")
    if question.device:
        found.append("device")
    if not asked.route:
        found.append("everywhere")
    return list(dict.fromkeys(found))


def _warnings(question: Question) -> str:
    found = _found(question)
    if not found:
        return ""
    rows = "".join(f"<li>{_warning(one)}</li>" for one in found)
    return f'<div class="warnings" role="alert"><h2>Before you allow this</h2><ul>{rows}</ul></div>'


def _warning(found: str) -> str:
    """In words; `id:what` has something of its own to show, and what nobody explained stands as it is."""
    id, _, what = found.partition(":")
    if id not in WARNINGS:
        return shown(found, 200)
    return escape(WARNINGS[id]) + (f" <b>{shown(what, 80)}</b>" if what else "")


def _who(question: Question) -> str:
    """The facts nobody can choose freely stand out: where the answer goes, and whose document names the client."""
    asked, client = question.asked, question.client
    rows = []
    if asked.redirect_uri:
        host = escape(host_of(asked.redirect_uri))
        if stays_here(asked.redirect_uri):
            host = f"a program on this computer ({host})"
        elif not host:
            host = f"an app on this device ({escape(urlsplit(asked.redirect_uri).scheme)}:)"
        whole = address(asked.redirect_uri)
        rows.append(f'<dt>Access is handed to</dt><dd class="host">{host}</dd><dd class="uri">{whole}</dd>')
    identity = address(client.id)
    if client.source == "metadata":
        identity = f'<span class="host">{escape(host_of(client.id))}</span><br><span class="uri">{identity}</span>'
    rows.append(f"<dt>It identifies itself by</dt><dd>{identity}</dd>")
    if client.uri:
        rows.append(f'<dt>It says more about itself at (not checked)</dt><dd class="uri">{address(client.uri)}</dd>')
    rows.append(f'<dt>It gets access to</dt><dd class="uri">{address(asked.resource)}</dd>')
    return f"<h2>Who is asking</h2><dl>{''.join(f'<div>{row}</div>' for row in rows)}</dl>"


def _tools(abilities: Sequence[Ability]) -> str:
    """Approved tools by effect, the gravest first."""
    if not abilities:
        return "<h2>What it could do</h2><p>Nothing at present: no tool it could call is approved.</p>"
    rows = []
    known = {effect for effect, _ in _EFFECTS}
    for effect, words in _EFFECTS:
        found = [one for one in abilities if (one.effect if one.effect in known else "unknown") == effect]
        if not found:
            continue
        names = ", ".join(shown(one.name, 64) for one in found[:_NAMED])
        more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
        rows.append(
            f'<li><b class="{effect}">{counted(len(found), "tool")}</b> that can {words}'
            f'<br><span class="names">{names}{more}</span></li>'
        )
    return (
        f'<h2>What it could do</h2><p class="note">With the {counted(len(abilities), "approved tool")} here. Each call '
        f'is still checked against the rules for you.</p><ul class="tools">{"".join(rows)}</ul>'
    )


def _scopes(question: Question) -> str:
    rows = []
    for index, scope in enumerate(question.asked.scopes):
        says = question.explain.get(scope) or SCOPES.get(scope)
        words = escape(says) if says else "A permission of this server, by the name the server gave it."
        if scope in question.needed:
            head = f'<span aria-hidden="true">✓</span><span class="fixed">{shown(scope)} (always included)</span>'
        else:
            box = f'<input type="checkbox" id="s{index}" name="scope.{index}" aria-describedby="d{index}" checked>'
            head = f'{box}<label for="s{index}">{shown(scope)}</label>'
        rows.append(f'<div class="scope">{head}<p class="says" id="d{index}">{words}</p></div>')
    if not rows:
        return '<h2>Permissions</h2><p class="note">It asks for no permission by name.</p>'
    return (
        '<fieldset><legend>Permissions it asks for</legend><p class="note">Untick what you do not want to give.</p>'
        f"{''.join(rows)}</fieldset>"
    )


def _next(question: Question) -> str:
    provider = escape(host_of(question.provider))
    scopes = " ".join(map(shown, question.provider_scopes))
    return (
        f"<h2>What happens next</h2><p>If you allow it, you sign in at <b>{provider}</b>, which is asked for: {scopes}."
        " The application never sees that sign-in.</p><p>Your answer holds for "
        f"<b>{duration(question.holds)}</b>. Your administrator can end it at any time.</p>"
    )
