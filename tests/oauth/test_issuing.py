"""The composition: a token of ours at our own door, with proofs of possession, and its end within a second."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from limen.assemble import House
from limen.config.load import check_consistency, load_config
from limen.config.model import Config
from limen.core.call import Caller, Presented
from limen.core.chain import Chain
from limen.core.faults import ConfigFault
from limen.core.verdict import Refusal
from limen.gateway.upstreams import Upstreams
from limen.identity.authenticate import Authenticate
from limen.identity.revoked import Revocation, Revocations, Revoked, revoke
from limen.issuing import Parts, open_grants
from limen.oauth.device import Devices
from limen.oauth.grants import Grants
from limen.oauth.web import OAuthError
from limen.opening import open_token_keys
from limen.storage import State
from minting import context
from oauth.granting import ALICE, APP, OTHER, SERVER, Known, Steps, Vault, answer, asked, redemption, renewal
from oauth.granting import visit as form_visit
from proving import Holder

URL = "http://127.0.0.1:8300"
HERE = f"{URL}/mcp/up"
ANN, THIEF = Holder(), Holder()


class Place:
    """A state directory and a configuration that issues tokens."""

    def __init__(self, directory: Path, **more: Any) -> None:
        self.config, self.steps = configured(directory, **more), Steps()
        self.signer = open_token_keys(self.config)
        self.state = State.open(self.config)
        self.events: list[Any] = []
        self.withdrawn: set[str] = set()
        self.grants, self.devices = self.built()

    def built(self) -> tuple[Grants, Devices | None]:
        async def start(visit: Any, asked: Any, client: Any, device: str) -> Any:
            raise OAuthError("server_error")

        parts = Parts(
            self.signer, Vault(), Known(APP, OTHER, SERVER), lambda consent: consent not in self.withdrawn, self.steps,
            lambda event, fields: self.events.append((event, fields)), lambda form, client: asked(client), start,
        )  # fmt: skip
        return open_grants(self.config, self.state, parts)

    def ask(self, dpop: str = "", client: Any = APP, **form: str) -> tuple[int, dict[str, Any]]:
        return answer(asyncio.run(self.grants.token(form_visit(form, dpop=dpop))))

    def code(self, client: Any = APP) -> str:
        return self.grants.code(asked(client, resource=HERE, route="up"), ALICE, "consent-1")

    def signed_in(self, dpop: str = "", client: Any = APP) -> dict[str, Any]:
        status, document = self.ask(dpop, **redemption(self.code(client), client, resource=HERE))
        assert status == 200, document
        return document


def configured(directory: Path, **more: Any) -> Config:
    settings = {
        "listen": {"url": URL},
        "mcpServers": {"up": {"url": "http://127.0.0.1:9/mcp"}},
        "oauth": {"provider": {"issuer": "https://idp.example", "client_id": "limen"}},
        **more,
    }
    (directory / "limen.yaml").write_text(json.dumps(settings))
    return load_config(directory / "limen.yaml", {}).config


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    yield made
    made.state.close()


def proof(holder: Holder, **changes: Any) -> str:
    """A proof for the token endpoint: without `ath` (RFC 9449 section 5)."""
    honest = {"htu": f"{URL}/oauth/token", "iat": int(time.time()), "ath": None}
    return holder.proof("", **{**honest, **changes})


def test_configuration_names_us_as_the_authorization_server(place: Place, tmp_path: Path) -> None:
    check_consistency(place.config)
    assert place.config.authorization_servers == (URL,)
    plain = configured(tmp_path, oauth=None, identity={"issuers": [{"issuer": "https://idp.example"}]})
    assert plain.authorization_servers == ("https://idp.example",)
    with pytest.raises(ConfigFault):
        open_grants(plain, place.state, None)  # type: ignore[arg-type]
    assert place.devices is None  # off unless the operator wants them


@pytest.mark.requirement("OA-24", "OA-83")
def test_tokens_are_good_at_the_house_until_their_grant_ends(place: Place) -> None:
    """OA-83 OA-24: a second after a family ended, its access tokens are refused; those of others are not."""

    async def run() -> list[str]:
        house = House(place.config, lambda config, heard: Upstreams([], heard), lambda text: None)
        duty = asyncio.create_task(house.watch_state())
        fixed = house.plan_in_force.fixed
        chain = Chain([fixed[Authenticate], fixed[Revoked]])

        async def outcome(token: str) -> str:
            presented = Presented((f"Bearer {token}".encode(),), HERE)
            walked = await chain.run(context(presented, "up"))
            return walked[0].reason.id if isinstance(walked, tuple) and isinstance(walked[0], Refusal) else "passed"

        code = place.code()
        first = answer(await place.grants.token(form_visit(redemption(code, resource=HERE))))[1]["access_token"]
        second = await asyncio.to_thread(place.signed_in)
        found = [await outcome(first), await outcome(second["access_token"])]
        await place.grants.token(form_visit(redemption(code, resource=HERE)))  # a replay
        await place.grants.revoke(form_visit({"token": second["access_token"], "client_id": APP.id}))
        await asyncio.sleep(0.7)
        found += [await outcome(first), await outcome(second["access_token"])]
        third = answer(await place.grants.token(form_visit(renewal(second["refresh_token"]))))[1]["access_token"]
        found.append(await outcome(third))
        duty.cancel()
        await asyncio.gather(duty, return_exceptions=True)
        await house.close()
        return found

    assert asyncio.run(run()) == ["passed", "passed", "identity.revoked", "identity.revoked", "passed"]


@pytest.mark.requirement("OA-83")
@pytest.mark.parametrize("issuer", ["", URL, "https://idp.example"])
def test_locked_out_user_is_refused_by_any_name_of_theirs_oa83(place: Place, issuer: str) -> None:
    """OA-83: what is out already ends too, whether the operator named us, the provider, or nobody as the issuer; of
    somebody of the same name elsewhere it does not."""
    token = place.signed_in()["access_token"]
    read = json.loads(_payload(token))
    caller = Caller(URL, "alice", read["client_id"], token_id=read["jti"], claims=json.dumps({"idp": read["idp"]}))
    known = Revocations(place.state.revocations)
    for stranger in (Revocation("user", "alice", "https://other.example"), Revocation("user", "bob", issuer)):
        revoke(place.state.revocations, stranger)
    known.refresh()
    assert known.find(caller, None) is None
    revoke(place.state.revocations, Revocation("user", "alice", issuer))
    known.refresh()
    found = known.find(caller, None)
    assert found is not None
    assert found.issuer == issuer


def test_people_of_a_provider_we_left_are_nobody(place: Place, tmp_path: Path) -> None:
    """Subjects are one provider's own: behind another one, the same subject is another person, and neither codes nor
    refresh tokens of before are good."""
    token, code = place.signed_in()["refresh_token"], place.code()
    place.config = configured(tmp_path, oauth={"provider": {"issuer": "https://new.example", "client_id": "limen"}})
    place.grants, place.devices = place.built()
    assert place.ask(**renewal(token))[1]["error"] == "invalid_grant"
    assert place.ask(**redemption(code, resource=HERE))[1]["error"] == "invalid_grant"
    place.config = configured(tmp_path)
    place.grants, place.devices = place.built()
    assert place.ask(**renewal(token))[0] == 200


@pytest.mark.requirement("OA-83")
@pytest.mark.parametrize("issuer", ["", URL, "https://idp.example"])
def test_locked_out_user_gets_no_further_token_oa83(place: Place, issuer: str) -> None:
    """OA-83: whether the operator named us, the provider, or nobody as the issuer."""
    token = place.signed_in()["refresh_token"]
    revoke(place.state.revocations, Revocation("user", "alice", issuer, at=time.time()))
    assert place.ask(**renewal(token))[1]["error"] == "invalid_grant"


def test_locked_out_user_of_another_issuer_is_somebody_else(place: Place) -> None:
    token = place.signed_in()["refresh_token"]
    revoke(place.state.revocations, Revocation("user", "alice", "https://other.example", at=time.time()))
    revoke(place.state.revocations, Revocation("user", "bob", at=time.time()))
    assert place.ask(**renewal(token))[0] == 200


def test_tokens_are_bound_to_the_key_that_was_proven(place: Place) -> None:
    """RFC 9449 section 5: and the refresh token of a public client with them."""
    given = place.signed_in(proof(ANN))
    assert given["token_type"] == "DPoP"
    claims = json.loads(_payload(given["access_token"]))
    assert claims["cnf"] == ANN.cnf
    token = given["refresh_token"]
    for wrong in ("", proof(THIEF)):
        assert place.ask(wrong, **renewal(token))[1]["error"] == "invalid_grant"
    status, again = place.ask(proof(ANN), **renewal(token))
    assert (status, again["token_type"]) == (200, "DPoP")


def test_confidential_client_may_change_its_key_and_may_not_drop_it(place: Place) -> None:
    """RFC 9449 section 5: its refresh token is bound to the client; a bearer token instead would be a downgrade."""
    token = place.signed_in(proof(ANN), SERVER)["refresh_token"]
    assert place.ask(**renewal(token, SERVER))[1]["error"] == "invalid_grant"
    status, again = place.ask(proof(THIEF), **renewal(token, SERVER))
    assert status == 200
    assert json.loads(_payload(again["access_token"]))["cnf"] == THIEF.cnf


@pytest.mark.requirement("OA-85")
@pytest.mark.parametrize(
    "changes",
    [{"htm": "GET"}, {"htu": f"{URL}/oauth/revoke"}, {"iat": 1}, {"iat": 9_999_999_999}, {"jti": None}],
)
def test_wrong_proofs_at_the_token_endpoint(place: Place, changes: dict[str, Any]) -> None:
    """OA-85 at /oauth/token: refused, and the code is not used up."""
    code = place.code()
    assert place.ask(proof(ANN, **changes), **redemption(code, resource=HERE))[1] == {"error": "invalid_dpop_proof"}
    assert place.ask(proof(ANN), **redemption(code, resource=HERE))[0] == 200


@pytest.mark.requirement("OA-85")
def test_replayed_proof_at_the_token_endpoint(place: Place) -> None:
    """OA-85"""
    one = proof(ANN)
    token = place.signed_in(one)["refresh_token"]
    assert place.ask(one, **renewal(token))[1] == {"error": "invalid_dpop_proof"}
    two = form_visit(renewal(token))
    twice = replace(two, headers={**two.headers, "dpop": (proof(ANN), proof(ANN))})
    assert answer(asyncio.run(place.grants.token(twice)))[1] == {"error": "invalid_dpop_proof"}


def test_nonce_where_it_is_required(tmp_path: Path) -> None:
    """RFC 9449 section 8."""
    place = Place(tmp_path, identity={"dpop": {"nonce": "required"}})
    code = place.code()
    reply = asyncio.run(place.grants.token(form_visit(redemption(code, resource=HERE), dpop=proof(ANN))))
    assert answer(reply) == (400, {"error": "use_dpop_nonce"})
    nonce = dict(reply.headers)["dpop-nonce"]
    assert place.ask(proof(ANN, nonce=nonce), **redemption(code, resource=HERE))[0] == 200
    place.state.close()


@pytest.mark.requirement("OA-92")
def test_no_secret_is_in_the_records(place: Place) -> None:
    """OA-92: codes and refresh tokens are kept as digests, or sealed."""
    code = place.code()
    given = place.ask(**redemption(code, resource=HERE))[1]
    again = place.ask(**renewal(given["refresh_token"]))[1]
    kept = b"".join(key.encode() + value for key, value in place.state.oauth.scan(""))
    for secret in (code, given["refresh_token"], again["refresh_token"], given["access_token"]):
        assert secret.encode() not in kept
        assert secret.rpartition(".")[2].encode() not in kept


def _payload(token: str) -> bytes:
    from base64 import urlsafe_b64decode

    return urlsafe_b64decode(token.split(".")[1] + "==")
