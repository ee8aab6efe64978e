"""Real places for key-encryption keys: a SoftHSM2 token, a Secret Service, and Key Vault as it is documented.

Each gives a function that opens the place, as often as replicas would."""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import shutil
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest
from pydantic import SecretStr

from contracts.key_vault import KEY_NAME, Credential, Service, serving
from limen.adapters.azure_key_vault import AzureKeyWrap
from limen.adapters.datakeys import FileKeyStore
from limen.adapters.os_keyring import KeyringKeyWrap
from limen.adapters.pkcs11_keys import Pkcs11KeyWrap
from limen.core.ports import KeyWrap
from limen.credentials.vault_settings import AzureIdentity, AzureKeys

PIN = "planted-pin-48213"
TOKEN = "limen"
_MODULES = ("/usr/lib/softhsm/libsofthsm2.so", "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so")
Opener = Callable[..., KeyWrap]


@contextlib.contextmanager
def in_file(tmp_path: Path) -> Iterator[Opener]:
    yield lambda create=True: FileKeyStore(tmp_path / "keys", create=create)


@functools.cache
def soft_token() -> Path:
    """A token of this test run, and the module that talks to it: a process has one for its whole life."""
    module = next((Path(one) for one in _MODULES if Path(one).exists()), None)
    if module is None or shutil.which("softhsm2-util") is None:
        pytest.skip("softhsm2-util and libsofthsm2.so are not installed (apt: softhsm2)")
    directory = Path(tempfile.mkdtemp(prefix="limen-hsm-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    (directory / "tokens").mkdir()
    (directory / "conf").write_text(f"directories.tokendir = {directory}/tokens\nlog.level = ERROR\n")
    os.environ["SOFTHSM2_CONF"] = str(directory / "conf")
    argv = ["softhsm2-util", "--init-token", "--free", "--label", TOKEN, "--so-pin", "12345678", "--pin", PIN]
    subprocess.run(argv, check=True, capture_output=True, timeout=30)
    return module


@contextlib.contextmanager
def in_module(tmp_path: Path) -> Iterator[Opener]:
    module, label = soft_token(), f"k{uuid.uuid4().hex[:12]}"
    yield lambda create=True: Pkcs11KeyWrap(module, TOKEN, PIN, label, create=create)


# A session bus that starts nothing by itself: asked for a Secret Service before ours has its name, it would start
# another one, which is locked.
_BUS: Final = """<busconfig><type>session</type><listen>unix:path={path}</listen><policy context="default">
<allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/></policy></busconfig>"""


@functools.cache
def secret_service() -> None:
    """A session bus and gnome-keyring, unlocked, for this test run."""
    for program, package in (("dbus-daemon", "dbus-daemon"), ("gnome-keyring-daemon", "gnome-keyring")):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed (apt: {package})")
    directory = tempfile.mkdtemp(prefix="limen-ring-")
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    settings = Path(directory, "bus.conf")
    settings.write_text(_BUS.format(path=f"{directory}/bus"))
    argv = ["dbus-daemon", f"--config-file={settings}", "--nofork", "--print-address=1"]
    bus = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert bus.stdout is not None
    os.environ["DBUS_SESSION_BUS_ADDRESS"] = bus.stdout.readline().strip()
    environment = {**os.environ, "HOME": directory, "XDG_DATA_HOME": directory, "XDG_RUNTIME_DIR": directory}
    argv = ["gnome-keyring-daemon", "--foreground", "--unlock", "--components=secrets"]
    daemon = subprocess.Popen(
        argv, env=environment, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    assert daemon.stdin is not None
    daemon.stdin.write(b"login password")
    daemon.stdin.close()
    for process in (bus, daemon):
        atexit.register(process.terminate)
    import secretstorage

    for _ in range(600):
        with contextlib.suppress(Exception), contextlib.closing(secretstorage.dbus_init()) as connection:
            # By its alias: asking for the default one would make one while that of the login is still being read.
            if not secretstorage.get_collection_by_alias(connection, "default").is_locked():
                return
        time.sleep(0.05)
    raise AssertionError("the Secret Service does not answer")


@contextlib.contextmanager
def in_keyring(tmp_path: Path) -> Iterator[Opener]:
    secret_service()
    entry = f"limen-{uuid.uuid4().hex[:12]}"
    yield lambda create=True: KeyringKeyWrap(tmp_path / "lock", entry, create=create)


@contextlib.contextmanager
def in_key_vault(tmp_path: Path) -> Iterator[Opener]:
    with serving(tmp_path) as service:
        yield lambda create=True: azure(service)


def azure(service: Service, now: Callable[[], float] = time.monotonic) -> AzureKeyWrap:
    """A replica of that service's clients."""
    identity = AzureIdentity(kind="secret", tenant="t", client_id="c", client_secret=SecretStr("s"))
    settings = AzureKeys(
        kind="azure_key_vault", vault=service.endpoint, key=KEY_NAME, identity=identity, ca=service.authority
    )
    return AzureKeyWrap(settings, Credential(), now)


PLACES = {"file": in_file, "keyring": in_keyring, "pkcs11": in_module, "azure_key_vault": in_key_vault}
