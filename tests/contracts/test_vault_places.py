"""The vault of a configuration, over every place its key-encryption key may be (B4): opened again after a restart,
rotated, and refused when the key is gone."""

from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import keyring
import pkcs11
import pytest
from pkcs11 import Attribute, ObjectClass

from contracts import key_places
from contracts.key_vault import KEY_NAME, Credential, serving
from limen.adapters.datakeys import FileKeyStore
from limen.adapters.postgres import Link, PostgresTable
from limen.config.model import Config
from limen.core.faults import ConfigFault, DependencyFault
from limen.credentials.vault import Vault
from limen.opening import open_vault
from limen.storage import State
from stores import shared_postgres

SECRET = b"planted-refresh-token"


class Place:
    """Settings of one place, and how its key is lost."""

    def __init__(self, keys: dict[str, Any], lose: Any) -> None:
        self.keys, self.lose = keys, lose


@pytest.fixture(params=key_places.PLACES)
def place(request, tmp_path, monkeypatch):
    name = f"limen-{uuid.uuid4().hex[:12]}"
    if request.param == "file":
        yield Place({"kind": "file", "directory": str(tmp_path / "keys")}, (tmp_path / "keys" / "kek").unlink)
    elif request.param == "keyring":
        key_places.secret_service()
        lose = lambda: keyring.get_keyring().delete_password(name, "key-encryption key")  # noqa: E731
        yield Place({"kind": "keyring", "entry": name}, lose)
    elif request.param == "pkcs11":
        module = str(key_places.soft_token())
        keys = {"kind": "pkcs11", "module": module, "token": key_places.TOKEN, "pin": key_places.PIN, "key": name}
        yield Place(keys, lambda: _destroy(module, name))
    else:
        with serving(tmp_path) as service:
            monkeypatch.setattr("limen.adapters.azure_key_vault.identity", lambda settings: Credential())
            keys = {
                "kind": "azure_key_vault", "vault": service.endpoint, "key": KEY_NAME,
                "identity": {"kind": "managed"}, "ca": str(service.authority),
            }  # fmt: skip
            yield Place(keys, service.versions.clear)


def _destroy(module: str, label: str) -> None:
    with pkcs11.lib(module).get_token(token_label=key_places.TOKEN).open(rw=True) as session:
        kind = {Attribute.CLASS: ObjectClass.SECRET_KEY, Attribute.LABEL: label}
        for one in session.get_objects(kind):
            one.destroy()


def test_a_secret_outlives_a_restart_and_a_rotation_and_not_its_key(place, tmp_path):
    config = Config.model_validate({"storage": {"path": str(tmp_path / "limen.db")}, "vault": {"keys": place.keys}})
    state = State.open(config)
    sealed = open_vault(config, state).seal("owner", "place", SECRET)
    again = open_vault(config, state)
    assert again.open("owner", "place", sealed) == SECRET
    again.rotate_kek()
    again.rotate_all()
    again.rewrap()
    assert again.status().behind == 0
    assert open_vault(config, state).open("owner", "place", sealed) == SECRET
    place.lose()
    for _ in range(2):  # and no other is made
        with pytest.raises((ConfigFault, DependencyFault)):
            open_vault(config, state)
    state.close()


def test_replicas_over_postgresql_agree_on_keys_and_lose_none(tmp_path):
    """B4, C8: two replicas with connections of their own make first keys, rotate and rewrap at once."""
    name = f"t{uuid.uuid4().hex[:16]}"
    wrap = FileKeyStore(tmp_path / "keys")
    tables = [PostgresTable(Link(shared_postgres()), name) for _ in range(2)]
    replicas = [Vault(table, FileKeyStore(tmp_path / "keys")) for table in tables]

    def use(number: int) -> bytes:
        sealed = replicas[number % 2].seal(str(number // 4), "place", SECRET)
        if number % 8 == 7:
            wrap.rotate()
            replicas[number % 2].rewrap()
        return replicas[1 - number % 2].open(str(number // 4), "place", sealed)

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(use, range(40))) == {SECRET}
    assert replicas[0].status().owners == replicas[0].status().keys == 10
    replicas[0].rewrap()
    replicas[1].retire()
    sealed = replicas[0].seal("3", "place", SECRET)
    assert replicas[0].destroy("3")
    fresh = Vault(tables[1], wrap)
    with pytest.raises(DependencyFault, match="destroyed"):
        fresh.open("3", "place", sealed)
    for table in tables:
        table.close()
