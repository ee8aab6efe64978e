"""Token misuse (B8): each scenario raises its alert, its honest twin none; alerts are bounded and name no token."""

from dataclasses import replace
from typing import Any

import orjson
import pytest

from limen.core.call import Call, Caller, Context, Era, Peer, Presented
from limen.identity.misuse import MOST, Misuse, MisuseSettings
from minting import Clock

HOME, CAFE, SIX = "192.0.2.10", "198.51.100.7", "2001:db8:1::7"
ALICE = Caller("https://id.example", "alice", "desk", token_id="the-token-id")


class Watched:
    def __init__(self, **settings: Any) -> None:
        self.clock, self.events = Clock(), list[dict[str, Any]]()
        self.misuse = Misuse(MisuseSettings(**settings), self.events.append, self.clock)

    def refused(
        self, reason: str, address: str = HOME, caller: Caller | None = None, count: int = 1, every: float = 1.0,
        handle: str = "",
    ):  # fmt: skip
        for number in range(count):
            shown = handle or f"another-{number}"
            call = Call("tools/list", "hr", "hr", Era.MODERN, "2026-07-28", peer=Peer("http", address),
                        session=shown, request_state=shown)  # fmt: skip
            context = Context(call, Presented((b"Bearer secret",)), 0.0, "r")
            self.misuse.refused(reason, context.having((caller,)) if caller else context)
            self.clock.now += every

    def used(self, *addresses: str, every: float = 5.0, caller: Caller = ALICE) -> None:
        for address in addresses:
            self.misuse.used(caller, address)
            self.clock.now += every

    @property
    def names(self) -> list[str]:
        return [event["event"] for event in self.events]


def many(reason: str, count: int, every: float = 1.0, caller: Caller | None = None) -> Any:
    return lambda watched: watched.refused(reason, caller=caller, count=count, every=every)


def around(reason: str, addresses: list[str]) -> Any:
    return lambda watched: [watched.refused(reason, address) for address in addresses]


def out_and_back(watched: Watched) -> None:
    for address in (HOME, CAFE, HOME):
        watched.used(address, every=100)


def each_once(watched: Watched) -> None:
    """After a restart every client's session may be unknown, behind one address."""
    for number in range(30):
        watched.refused("identity.session", caller=replace(ALICE, subject=f"s{number}"))


def one_that_ended(reason: str) -> Any:
    """An agent with many calls under way, whose session was just ended: because of somebody else, perhaps."""
    return lambda watched: watched.refused(reason, caller=ALICE, count=40, every=0.1, handle="gone")


SCENARIOS = {  # event -> attacks with their honest twins
    "token.two_networks": [(lambda watched: watched.used(HOME, CAFE, HOME), out_and_back)],
    "token.wrong_audience": [
        (many("identity.audience", 5), many("identity.audience", 4)),
        (
            around("identity.audience", [f"198.51.100.{i}" for i in range(9)]),
            around("identity.audience", [f"198.51.{i}.1" for i in range(9)]),
        ),
    ],
    "token.expired_burst": [(many("identity.expired", 10), many("identity.expired", 40, every=30))],
    "token.invalid_burst": [(many("identity.invalid", 20), many("identity.invalid", 5))],
    "token.revoked_use": [(many("identity.revoked", 1), many("identity.missing", 50))],
    "handle.probing": [
        (many("identity.session", 5, caller=ALICE), each_once),
        (many("identity.session", 5, caller=ALICE), one_that_ended("identity.session")),
        (many("identity.state", 5, caller=ALICE), one_that_ended("identity.state")),
        (many("identity.state", 5, caller=ALICE), many("identity.state", 1, caller=ALICE)),
    ],
}


@pytest.mark.requirement("AU-15")
@pytest.mark.parametrize("event", SCENARIOS)
def test_b8_scenarios_and_their_honest_twins(event: str) -> None:
    for attack, honest in SCENARIOS[event]:
        attacked, left_alone = Watched(), Watched()
        attack(attacked)
        assert attacked.names == [event]
        assert attacked.events[0]["t"] == "security"
        assert b"the-token-id" not in orjson.dumps(attacked.events)
        assert b"secret" not in orjson.dumps(attacked.events)
        honest(left_alone)
        assert left_alone.names == []


def test_a_walk_through_networks_is_one_person() -> None:
    watched = Watched()
    watched.used(HOME, "192.0.2.200", SIX, HOME, SIX, CAFE, CAFE, SIX, "203.0.113.9")
    watched.used("203.0.113.9", HOME, caller=replace(ALICE, token_id="another"))
    assert watched.names == []


def test_the_same_alert_is_not_raised_again_at_once() -> None:
    watched = Watched()
    watched.refused("identity.audience", count=100)
    assert watched.names == ["token.wrong_audience"]
    watched.clock.now += 301
    watched.refused("identity.audience", count=5)
    assert len(watched.names) == 2


def test_a_flood_of_alerts_is_held_back_and_counted() -> None:
    watched = Watched(remembered=100_000)
    for number in range(200):
        watched.refused("identity.revoked", f"10.{number // 250}.{number % 250}.1", every=0)
    assert len(watched.events) == MOST
    watched.clock.now += 61
    watched.refused("identity.revoked", "203.0.113.1")
    assert watched.events[-1]["held_back"] == 200 - MOST


def test_what_is_remembered_is_bounded() -> None:
    watched = Watched(remembered=64)
    for number in range(500):
        watched.refused("identity.expired", f"10.1.{number % 250}.{number // 250}", every=0)
        watched.refused("identity.revoked", f"10.{number // 250}.{number % 250}.1", every=2)
        watched.used(HOME, every=0, caller=replace(ALICE, token_id=str(number)))
    misuse = watched.misuse
    assert max(len(misuse._refused), len(misuse._tokens), len(misuse._raised)) <= 64


def test_kinds_can_be_turned_off() -> None:
    watched = Watched(audience=0, networks=False)
    watched.refused("identity.audience", count=50)
    watched.used(HOME, CAFE, HOME, CAFE)
    assert watched.names == []
