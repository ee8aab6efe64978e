"""The page that asks whether to connect an account. HTML built from values, each escaped; no script, no frame."""

from __future__ import annotations

from base64 import b64encode
from hashlib import sha256
from html import escape
from typing import Final
from urllib.parse import quote

from limen.oauth.web import Reply

_STYLE: Final = (
    ":root{color-scheme:light dark;font:1rem/1.5 system-ui,sans-serif}body{margin:0}"
    "main{max-width:34rem;margin:0 auto;padding:1.5rem}h1{font-size:1.35rem;line-height:1.3}"
    "b,li{overflow-wrap:anywhere}button{font:inherit;padding:.6rem 1.2rem;margin:.5rem .5rem 0 0;border-radius:.4rem;"
    "border:1px solid;background:Canvas;color:CanvasText;cursor:pointer}"
    "button:focus-visible{outline:3px solid Highlight;outline-offset:2px}button.yes{font-weight:600}"
)
_ALLOWED: Final = b64encode(sha256(_STYLE.encode()).digest()).decode()
_HEADERS: Final = (
    ("content-type", "text/html; charset=utf-8"),
    (
        "content-security-policy",
        f"default-src 'none'; style-src 'sha256-{_ALLOWED}'; img-src 'none'; form-action 'self'; base-uri 'none'; "
        "frame-ancestors 'none'",
    ),
    ("x-frame-options", "DENY"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
    ("referrer-policy", "same-origin"),  # with no-referrer, browsers say `Origin: null` for a form of our own
)


def ask(
    issuer: str, path: str, id: str, token: str, server: str, host: str, scopes: tuple[str, ...], name: str
) -> Reply:
    """The question, and two buttons."""
    asked = "".join(f"<li><code>{_shown(scope)}</code></li>" for scope in scopes)
    may = f"<p>It is asked for:</p><ul>{asked}</ul>" if asked else "<p>It decides itself what to ask you for.</p>"
    body = (
        f'<h1 id="title">Connect your account at <b>{_shown(host)}</b> to the server “{_shown(server)}”?</h1>'
        f"<p>You are signed in{f' as <b>{_shown(name)}</b>' if name else ''}. From here your browser goes to "
        f"<b>{_shown(host)}</b>, where you sign in and agree. Afterwards this gateway ({_shown(issuer)}) uses your "
        f"account there whenever <em>you</em> use this server, until the connection is ended.</p>{may}"
        "<p>Go on only if you have just asked for this yourself.</p>"
        f'<form method="post" action="{escape(path + quote(server))}" autocomplete="off">'
        f'<input type="hidden" name="id" value="{escape(id)}">'
        f'<input type="hidden" name="token" value="{escape(token)}">'
        '<button name="decision" value="deny">Do not connect</button>'
        '<button class="yes" name="decision" value="allow">Connect</button></form>'
    )
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" '
        f'content="width=device-width,initial-scale=1"><title>Connect an account?</title><style>{_STYLE}</style></head>'
        f'<body><main aria-labelledby="title">{body}</main></body></html>'
    )
    return Reply(200, page.encode(), _HEADERS)


def _shown(text: str) -> str:
    """What a stranger wrote, as text of bounded length; what does not show is shown as `?`."""
    return escape("".join(char if char.isprintable() else "?" for char in text[:256]))
