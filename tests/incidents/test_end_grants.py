"""revoke_grants (J1, OA-83): everything one person let others do ends, whatever its name here; nobody else's does."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from limen.containing import Containing
from limen.credentials.connection import PREFIX, Connection
from limen.credentials.held import Held
from limen.credentials.user_grants import ENDED
from limen.identity.revoked import revocations
from limen.incidents.actions import Action
from limen.oauth.consent import Consents
from limen.oauth.model import User
from limen.oauth.settings import ConsentSettings
from oauth.asking_scene import ASKED, CLIENT
from oauth.granting import APP, Vault, asked, redemption, renewal
from oauth.test_issuing import HERE, URL, Place

PROVIDER = "https://idp.example"
ALICE, BOB, NAMESAKE = (User(PROVIDER, "alice"), User(PROVIDER, "bob"), User("https://other.example", "alice"))


class World(Place):
    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.consents = Consents(self.state.consents, self.note, ConsentSettings(), time.time)
        self.hands = Containing(self.config, self.state, self.note)
        self.held = Held(self.state.vault, Vault())

    def note(self, event: str, fields: Any) -> None:
        self.events.append((event, fields))

    def begin(self, user: User) -> str:
        """Sign in, consent, connect. The refresh token."""
        consent = self.consents.give(user, ASKED, CLIENT)
        code = self.grants.code(asked(APP, resource=HERE, route="up"), user, consent)
        status, document = self.ask(**redemption(code, APP, resource=HERE))
        assert status == 200, document
        linked = Connection(
            "notes", user.issuer, user.subject, "https://as.example", "https://notes.example", "https://as.example/token",
            "https://as.example/revoke", "limen", "none", (), (), time.time(), 0.0, True, b"sealed",
        )  # fmt: skip
        self.state.vault.put(linked.key, linked.dump())
        self.held.keep(user.issuer, user.subject, "access", "refresh", time.time() + 60)
        return str(document["refresh_token"])

    def left(self, user: User) -> tuple[int, int, bool]:
        """Consents, connections, and whether the provider's tokens are kept."""
        who = [one for one in self.consents.list(user=user.subject) if one.issuer == user.issuer]
        keys = [
            key
            for key, raw in self.state.vault.scan(PREFIX)
            if user.issuer.encode() in raw and user.subject.encode() in raw
        ]
        return len(who), len(keys), self.held._read(user.issuer, user.subject) is not None


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.state.close()


@pytest.mark.parametrize("issuer", [PROVIDER, URL])
def test_all_of_one_person_ends_and_of_others_nothing(world: World, issuer: str) -> None:
    """By the provider's name for us or by ours: operators see both in the log."""
    before, bob = world.begin(ALICE), world.begin(BOB)
    assert world.left(ALICE) == world.left(BOB) == (1, 1, True)
    applied = world.hands.apply(Action("revoke_grants", "alice", issuer), by="ann", reason="laptop stolen")
    assert not applied.waits
    assert world.left(ALICE) == (0, 0, False)
    assert world.left(BOB) == (1, 1, True)
    assert world.ask(**renewal(before, APP))[0] == 400
    assert world.ask(**renewal(bob, APP))[0] == 200
    assert [one.kind for one in revocations(world.state.revocations)] == ["grant"]  # its access tokens
    assert len(list(world.state.vault.scan(ENDED))) == 1  # the authorization server is told by the gateway
    told = [event for event, _ in world.events]
    assert told.count("contained") == told.count("disconnected") == 1
    with pytest.raises(ValueError, match="sign in again"):
        world.hands.release(applied.id, by="ann", reason="x")
    assert world.hands.in_force() == []


def test_again_after_they_signed_in_again(world: World) -> None:
    for _ in range(2):
        world.begin(ALICE)
        world.hands.apply(Action("revoke_grants", "alice", PROVIDER), by="ann", reason="x")
        assert world.left(ALICE) == (0, 0, False)


def test_a_namesake_at_another_provider_is_somebody_else(world: World) -> None:
    world.consents.give(NAMESAKE, ASKED, CLIENT)
    world.begin(ALICE)
    world.hands.apply(Action("revoke_grants", "alice", PROVIDER), by="ann", reason="x")
    assert world.left(NAMESAKE)[0] == 1
    world.hands.apply(Action("revoke_grants", "alice"), by="ann", reason="x")
    assert world.left(NAMESAKE)[0] == 0
