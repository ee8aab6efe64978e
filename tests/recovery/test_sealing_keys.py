"""J3, B3: keys of tokens and of the vault are replaced while others sign, verify, seal and open with them."""

import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

import launched
from limen.adapters.datakeys import FileKeyStore
from limen.adapters.signing_keys import SigningKeys
from limen.config.load import load_config
from limen.core.faults import ConfigFault, DependencyFault
from limen.credentials.vault import Vault
from limen.opening import open_token_keys, open_vault
from limen.storage import State


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "limen.yaml"
    path.write_text("identity: {unsafe_anonymous: true}\n")
    path.chmod(0o600)
    return path


def rotate(config: Path, *arguments: str) -> dict[str, Any]:
    done = launched.limen("-c", str(config), "keys", "rotate", *arguments, "--json", timeout=90)
    assert done.returncode == 0, done.stderr + done.stdout
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def busy(work: Callable[[int], None], callers: int = 20) -> Callable[[], tuple[int, list[str]]]:
    """Twenty who do it over and over; what ends them gives how often, and what went wrong."""
    stop, problems, counts = threading.Event(), list[str](), [0] * callers

    def run(number: int) -> None:
        while not stop.is_set():
            try:
                work(number)
                counts[number] += 1
            except Exception as error:
                problems.append(repr(error))
            time.sleep(0.01)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(callers)]
    for thread in threads:
        thread.start()

    def end() -> tuple[int, list[str]]:
        time.sleep(0.3)
        stop.set()
        for thread in threads:
            thread.join()
        return sum(counts), problems

    return end


def verified(keys: SigningKeys, token: str) -> Any:
    return jwt.decode(token, KeySet.import_key_set(json.loads(keys.key_set()))).claims


def test_tokens_are_signed_and_verified_while_their_key_is_replaced_j3(config: Path) -> None:
    settings = load_config(config).config
    State.open(settings).close()
    keys, lock = open_token_keys(settings), threading.Lock()
    held = keys.sign("at+jwt", {"sub": "alice"})

    def work(number: int) -> None:
        with lock:  # as on the gateway's one event loop
            assert verified(keys, keys.sign("at+jwt", {"sub": str(number)}))["sub"] == str(number)
            assert verified(keys, held)["sub"] == "alice"

    end = busy(work)
    first = rotate(config, "tokens")
    done, problems = end()
    assert not problems and done > 20
    assert "ten minutes" in first["keys"][0]["follows"]
    assert [what for _, what in keys.published()] == ["next", "signing"]
    rotate(config, "tokens", "--emergency", "--reason", "the directory was copied")
    keys.published()  # what every process does once a second
    with pytest.raises(JoseError):
        verified(keys, held)
    assert verified(keys, keys.sign("at+jwt", {"sub": "bob"}))["sub"] == "bob"


def test_secrets_are_sealed_and_opened_while_every_key_is_replaced_j3(config: Path) -> None:
    settings = load_config(config).config
    state = State.open(settings)
    vault = open_vault(settings, state)
    before = [vault.seal(f"owner-{number}", "place", b"secret") for number in range(20)]
    stolen = FileKeyStore(config.parent / "limen-state" / "vault-keys")._read("kek")

    def work(number: int) -> None:
        owner = f"owner-{number}"
        assert vault.open(owner, "place", before[number]) == b"secret"
        assert vault.open(owner, "place", vault.seal(owner, "place", os.urandom(8)))

    end = busy(work)
    rotate(config, "vault")
    rotate(config, "vault", "--emergency", "--reason", "the directory was copied")
    done, problems = end()
    assert not problems and done > 20
    assert vault.status().behind == 0
    place = config.parent / "thief"
    place.mkdir(mode=0o700)
    (place / "kek").write_bytes(stolen)
    (place / "kek").chmod(0o600)
    thief = Vault(state.vault, FileKeyStore(place))
    with pytest.raises((DependencyFault, ConfigFault)):
        thief.open("owner-1", "place", before[1])
    state.close()
