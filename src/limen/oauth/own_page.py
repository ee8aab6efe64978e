"""Does a form come from a page of ours? Fetch Metadata and Origin, as browsers send them."""

from __future__ import annotations

from urllib.parse import urlsplit

from limen.oauth.web import Visit


def origin_of(url: str) -> str:
    """As browsers write it: lower case, and no port where it is the usual one (RFC 6454 section 6.1)."""
    parts = urlsplit(url.lower())
    usual = {"https": 443, "http": 80}.get(parts.scheme)
    host = parts.netloc if parts.port != usual else parts.netloc.rpartition(":")[0]
    return f"{parts.scheme}://{host}"


def framed(visit: Visit) -> bool:
    """Whether a browser asks for it to show it inside another page, or not as a page at all. Raises OAuthError."""
    return visit.header("sec-fetch-dest") not in ("", "document")


def foreign(visit: Visit, origin: str) -> tuple[str, str] | None:
    """What says that a form came from elsewhere: the header and what it held. Raises OAuthError for one sent twice.

    Our own pages send no referrer, for which browsers say `Origin: null`. So does a sandboxed frame: `null` counts
    where `Sec-Fetch-Site`, which no page can set, says whose the form is, and nowhere else.
    """
    site, came = visit.header("sec-fetch-site"), visit.header("origin")
    if site not in ("", "same-origin"):
        return "sec-fetch-site", f"sent by another site ({site[:32]})"
    if framed(visit):
        return "sec-fetch-dest", "sent from inside another page"
    if came not in ("", origin) and not (came == "null" and site):
        return "origin", f"sent by {came[:200]}"
    return None
