"""The gateway with a vault and signing keys that tests know: `python -m credentials.launch`, as `python -m limen`."""

import os
from functools import partial

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

import limen.assemble
from credentials.authority import Box, Keys
from limen.cli.main import run
from limen.delegation import Delegation


def known() -> tuple[Box, Keys]:
    """The same in the gateway and in its test."""
    number = int(os.environ["LIMEN_TEST_KEY"], 16)
    box, keys = Box(), Keys()
    box._key = AESGCM(number.to_bytes(32, "big"))
    keys.use(ec.derive_private_key(number, ec.SECP256R1()))
    return box, keys


if __name__ == "__main__":
    box, keys = known()
    limen.assemble.Delegation = partial(Delegation, vault=box, keys=keys)  # type: ignore[misc,assignment]
    run()
