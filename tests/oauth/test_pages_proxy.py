"""Whether a page believes that nobody could listen: TLS of our own, this machine, or a proxy the operator trusts."""

from __future__ import annotations

import asyncio
from ipaddress import ip_network
from typing import Any

import pytest

from limen.gateway.pages import Pages
from limen.oauth.web import Reply, Visit
from limen.signin import SignIn

PROXY = (ip_network("10.0.0.0/8"),)


def seen(pages: Pages, address: str, *forwarded: tuple[str, str], scheme: str = "http") -> Visit:
    """How a request of this address reaches a handler."""
    visits: list[Visit] = []

    async def handler(visit: Visit) -> Reply:
        visits.append(visit)
        return Reply(200)

    async def send(event: dict[str, Any]) -> None:
        assert event

    headers = [(name.encode(), value.encode()) for name, value in forwarded]
    scope = {"method": "GET", "raw_path": b"/x", "query_string": b"", "headers": headers, "client": (address, 1)}
    asyncio.run(pages.serve(handler, {**scope, "scheme": scheme}, b"", send))
    return visits[0]


@pytest.mark.requirement("OA-93")
def test_who_may_say_that_it_came_over_tls_oa93() -> None:
    """OA-93: a trusted proxy may say so, once and in these words; nobody else, and no address in a header."""
    pages = Pages(SignIn(), True, PROXY)
    said = ("x-forwarded-proto", "https")
    assert seen(pages, "10.1.2.3", said).secure
    assert seen(pages, "192.0.2.1", scheme="https").secure
    assert seen(pages, "127.0.0.1").secure
    assert not seen(pages, "10.1.2.3").secure
    assert not seen(pages, "192.0.2.1", said).secure
    assert not seen(pages, "192.0.2.1", said, ("x-forwarded-for", "10.1.2.3")).secure
    assert not seen(pages, "10.1.2.3", ("x-forwarded-proto", "http")).secure
    assert not seen(pages, "10.1.2.3", said, ("x-forwarded-proto", "http")).secure
    assert not seen(pages, "10.1.2.3", ("x-forwarded-proto", "http, https")).secure
    assert not seen(Pages(SignIn(), True), "10.1.2.3", said).secure  # nobody is trusted
    assert not seen(Pages(SignIn(), False, PROXY), "10.1.2.3", said).secure  # clients are told to come by plain HTTP


def test_the_address_is_the_one_the_proxy_saw() -> None:
    pages = Pages(SignIn(), True, PROXY)
    assert seen(pages, "10.1.2.3", ("x-forwarded-for", "6.6.6.6, 198.51.100.7")).address == "198.51.100.7"
    assert seen(pages, "192.0.2.1", ("x-forwarded-for", "198.51.100.7")).address == "192.0.2.1"
