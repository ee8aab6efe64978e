"""Every place of a key-encryption key behaves like this (B4): a file, the system's keyring, a hardware module over
PKCS#11 (SoftHSM2), Azure Key Vault (over loopback, as documented)."""

from __future__ import annotations

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from pydantic import SecretStr

from contracts.key_places import PIN, PLACES, TOKEN, azure, in_keyring, in_module, soft_token
from contracts.key_vault import BEARER, OAEP, PSS, serving
from limen.adapters.azure_key_vault import identity
from limen.adapters.datakeys import FileKeyStore
from limen.adapters.os_keyring import KeyringKeyWrap
from limen.adapters.pkcs11_keys import Pkcs11KeyWrap
from limen.core.faults import ConfigFault, DependencyFault
from limen.credentials.vault_settings import AzureIdentity

KEY = bytes(range(32))


@pytest.fixture(params=PLACES)
def place(request, tmp_path):
    with PLACES[request.param](tmp_path) as opener:
        opener.kind = request.param
        yield opener


def test_what_one_replica_wraps_another_unwraps(place):
    one, other = place(), place(create=False)
    wrapped = one.wrap(KEY, b"alice")
    assert other.unwrap(wrapped, b"alice") == KEY
    assert one.unwrap(other.wrap(KEY, b""), b"") == KEY
    assert wrapped != one.wrap(KEY, b"alice")
    assert KEY not in wrapped
    assert KEY.hex() not in repr(one)
    assert PIN not in repr(one)


def test_another_context_or_a_changed_byte_is_refused(place):
    wrap = place()
    wrapped = wrap.wrap(KEY, b"alice")
    step = max(1, len(wrapped) // 12)
    forged = [wrapped[:at] + bytes([wrapped[at] ^ 1]) + wrapped[at + 1 :] for at in range(0, len(wrapped), step)]
    forged += [wrapped[:at] for at in range(0, len(wrapped), step)]
    for changed, context in [(wrapped, b"bob"), (wrapped, b""), *((one, b"alice") for one in forged)]:
        with pytest.raises(DependencyFault) as told:
            wrap.unwrap(changed, context)
        assert not told.value.retryable
        assert KEY.hex() not in str(told.value)
    assert wrap.unwrap(wrapped, b"alice") == KEY


def test_rotation_wraps_with_the_new_key_and_unwraps_with_both(place):
    wrap = place()
    before = wrap.wrap(KEY, b"alice")
    assert wrap.older([before]) == [False]
    wrap.rotate()
    assert wrap.older([before]) == [True]
    assert wrap.unwrap(before, b"alice") == KEY
    after = wrap.wrap(KEY, b"alice")
    assert wrap.older([after, before, after]) == [False, True, False]
    assert place(create=False).older([after, before]) == [False, True]
    assert place(create=False).unwrap(after, b"alice") == KEY


def test_a_retired_key_unwraps_nothing(place):
    wrap = place()
    before = wrap.wrap(KEY, b"alice")
    wrap.rotate()
    after = wrap.wrap(KEY, b"alice")
    if place.kind == "azure_key_vault":
        with pytest.raises(ConfigFault, match="disable"):
            wrap.retire(after)  # the vault's operator does that
        return
    wrap.retire(before)  # nothing is older
    assert wrap.unwrap(before, b"alice") == KEY
    wrap.rotate()
    wrap.retire(after)  # somebody rotated meanwhile: what is in use stays
    with pytest.raises(DependencyFault) as told:
        wrap.unwrap(before, b"alice")
    assert not told.value.retryable
    assert wrap.unwrap(after, b"alice") == KEY


def test_no_key_is_made_where_one_must_be(place):
    """B4: no fallback key. What is missing is a fault, twice, not a new key."""
    if place.kind == "azure_key_vault":
        return  # keys are never made there: see test_key_vault_without_the_key
    for _ in range(2):
        with pytest.raises(ConfigFault, match="restore it"):
            place(create=False)


def test_many_threads_at_once(place):
    wrap = place()
    with ThreadPoolExecutor(8) as pool:
        wrapped = list(pool.map(lambda n: wrap.wrap(KEY, b"%d" % n), range(16)))
        assert set(pool.map(lambda n: wrap.unwrap(wrapped[n], b"%d" % n), range(16))) == {KEY}


# a file


def test_a_key_file_others_may_use_is_refused(tmp_path):
    FileKeyStore(tmp_path / "keys")
    (tmp_path / "keys" / "kek").chmod(0o640)
    with pytest.raises(ConfigFault, match="0600"):
        FileKeyStore(tmp_path / "keys", create=False)


# a keyring


@pytest.mark.parametrize("name", ["keyring.backends.null.Keyring", "keyring.backends.fail.Keyring", "plain.Keyring"])
def test_a_keyring_that_is_none_is_refused(tmp_path, name):
    """B4: whoever sets PYTHON_KEYRING_BACKEND does not choose where the key is kept."""
    (tmp_path / "plain.py").write_text(
        "from keyring.backend import KeyringBackend\n"
        "class Keyring(KeyringBackend):\n"
        "    priority = 9\n"
        "    kept = {}\n"
        "    def get_password(self, entry, user): return self.kept.get((entry, user))\n"
        "    def set_password(self, entry, user, text): self.kept[entry, user] = text\n"
    )
    program = (
        "import sys; from pathlib import Path; from limen.adapters.os_keyring import KeyringKeyWrap\n"
        "from limen.core.faults import ConfigFault\n"
        "try: KeyringKeyWrap(Path(sys.argv[1]), 'limen-vault', create=True)\n"
        "except ConfigFault as fault: print(fault)\n"
    )
    environment = {"PYTHON_KEYRING_BACKEND": name, "PYTHONPATH": ":".join([str(tmp_path), *sys.path])}
    argv = [sys.executable, "-c", program, str(tmp_path / "lock")]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=60)
    assert "is not a keyring of an operating system" in done.stdout, done.stderr


def test_a_key_removed_from_the_keyring_is_not_replaced(tmp_path):
    import keyring

    with in_keyring(tmp_path) as opener:
        wrap = opener()
        assert isinstance(wrap, KeyringKeyWrap)
        wrapped = wrap.wrap(KEY, b"")
        keyring.get_keyring().delete_password(wrap._entry, "key-encryption key")
        with pytest.raises(DependencyFault, match="is gone"):
            wrap.unwrap(wrapped, b"")
        with pytest.raises(DependencyFault, match="is gone"):
            wrap.wrap(KEY, b"")


class Wavering:
    """A keyring whose service takes over a change of its own file: at first it denies what it has."""

    def __init__(self, real, denials, how):
        self.real, self.denials, self.how = real, denials, how

    def get_password(self, entry, user):
        self.denials -= 1
        if self.denials >= 0:
            return self.how()
        return self.real.get_password(entry, user)

    def set_password(self, entry, user, text):
        self.real.set_password(entry, user, text)


def _nothing():
    return None


def _not_there():
    import secretstorage

    raise secretstorage.exceptions.ItemNotFoundException("Item does not exist!")


@pytest.mark.parametrize("how", [_nothing, _not_there])
def test_a_keyring_that_denies_a_key_for_a_moment_has_it_all_the_same(tmp_path, monkeypatch, how):
    """B4: nothing is made in its place, which would lose all that is under it; one that goes on denying is a fault."""
    with in_keyring(tmp_path) as opener:
        wrap = opener()
        wrapped = wrap.wrap(KEY, b"")
        real = wrap._backend
        monkeypatch.setattr("limen.adapters.os_keyring._trusted", lambda backend: Wavering(real, 2, how))
        again = opener()
        assert again.unwrap(wrapped, b"") == KEY
        again._backend = Wavering(real, 2, how)
        assert again.unwrap(wrapped, b"") == KEY
        again._backend = Wavering(real, 99, how)
        with pytest.raises(DependencyFault):
            again.unwrap(wrapped, b"")


# a hardware module


def test_the_key_cannot_leave_the_token(tmp_path):
    import pkcs11
    from pkcs11 import Attribute, KeyType, ObjectClass

    with in_module(tmp_path) as opener:
        wrap = opener()
        assert isinstance(wrap, Pkcs11KeyWrap)
        with pkcs11.lib(str(soft_token())).get_token(token_label=TOKEN).open() as session:
            kind = {Attribute.CLASS: ObjectClass.SECRET_KEY, Attribute.LABEL: wrap._label}
            (key,) = session.get_objects(kind)
            with pytest.raises(pkcs11.AttributeSensitive):
                key[Attribute.VALUE]
            with pytest.raises(pkcs11.PKCS11Error):
                session.generate_key(KeyType.AES, 256).wrap_key(key)


def test_an_extractable_key_is_refused(tmp_path):
    import pkcs11
    from pkcs11 import Attribute, KeyType

    with in_module(tmp_path) as opener:
        wrap = opener()
        session = wrap._session
        weak = {Attribute.EXTRACTABLE: True, Attribute.SENSITIVE: False}
        session.generate_key(KeyType.AES, 256, id=b"\0\0\0\2", label=wrap._label, store=True, template=weak)
        with pytest.raises(ConfigFault, match="can be taken out"):
            opener()
        with pytest.raises(ConfigFault, match="can be taken out"):
            wrap.wrap(KEY, b"")
    assert pkcs11  # the library stays loaded for the tests that follow


# The library closes a search whose session is gone once more, and says so where nobody listens.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_lost_session_is_opened_again(tmp_path):
    with in_module(tmp_path) as opener:
        wrap = opener()
        wrapped = wrap.wrap(KEY, b"alice")
        wrap._session.close()
        assert wrap.unwrap(wrapped, b"alice") == KEY


@pytest.mark.parametrize(
    ("module", "token", "pin", "found"),
    [
        ("", TOKEN, "0000", "does not take the PIN"),
        ("", "another", PIN, "not one token"),
        ("/nonexistent.so", TOKEN, PIN, "cannot be loaded"),
    ],
)
def test_a_token_that_cannot_be_used_is_named_and_the_pin_is_not(tmp_path, module, token, pin, found):
    program = (
        "import sys; from pathlib import Path; from limen.adapters.pkcs11_keys import Pkcs11KeyWrap\n"
        "from limen.core.faults import ConfigFault\n"
        "try: Pkcs11KeyWrap(Path(sys.argv[1]), sys.argv[2], sys.argv[3], 'key', create=True)\n"
        "except ConfigFault as fault: print(fault)\n"
    )
    argv = [sys.executable, "-c", program, module or str(soft_token()), token, pin]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert found in done.stdout, done.stderr
    assert pin not in done.stdout + done.stderr


# Azure Key Vault


def test_a_key_planted_with_the_public_key_is_refused_before_the_vault_is_asked(tmp_path):
    """Whoever can write the database knows the public key: encrypting for it proves nothing."""
    with serving(tmp_path) as service:
        wrap = azure(service)
        honest = wrap.wrap(KEY, b"alice")
        version = list(service.versions)[-1].encode()
        sealed = service.versions[version.decode()].public_key().encrypt(bytes(32), OAEP)
        head = b"\x01" + bytes([len(version)]) + version + len(sealed).to_bytes(2, "big") + sealed
        theirs = rsa.generate_private_key(65537, 2048).sign(bytes(32), PSS, Prehashed(hashes.SHA256()))
        for forged in (head + theirs, head + honest[-256:], head + b"\x00"):
            service.asked.clear()
            with pytest.raises(DependencyFault, match="was changed"):
                wrap.unwrap(forged, b"alice")
            assert service.asked == []


def test_records_do_not_say_where_to_ask(tmp_path):
    with serving(tmp_path) as service:
        wrap = azure(service)
        wrapped = wrap.wrap(KEY, b"")
        service.asked.clear()
        for version in (b"../../secrets/db", b"", b"1" * 32):
            forged = wrapped[:1] + bytes([len(version)]) + version + wrapped[2 + 32 :]
            with pytest.raises(DependencyFault):
                wrap.unwrap(forged, b"")
        assert set(service.asked) <= {"GET /keys/limen-kek/" + "1" * 32}


@pytest.mark.parametrize(("status", "retryable"), [(403, False), (404, False), (429, True), (503, True)])
def test_trouble_of_the_vault_is_a_fault_that_quotes_nothing(tmp_path, status, retryable):
    with serving(tmp_path) as service:
        wrap = azure(service)
        wrapped = wrap.wrap(KEY, b"")
        service.trouble = status
        for work in (lambda: wrap.unwrap(wrapped, b""), lambda: wrap.wrap(KEY, b""), wrap.rotate):
            with pytest.raises(DependencyFault) as told:
                work()
            assert told.value.retryable is retryable
            assert str(status) in str(told.value)
            assert BEARER not in str(told.value)
            assert "planted" not in str(told.value)
        service.trouble = None
        assert wrap.unwrap(wrapped, b"") == KEY


def test_a_vault_that_is_away_is_worth_a_retry(tmp_path):
    with serving(tmp_path) as service:
        wrap = azure(service)
        wrapped = wrap.wrap(KEY, b"")
        service.trouble = 0
        with pytest.raises(DependencyFault) as told:
            wrap.unwrap(wrapped, b"")
        assert told.value.retryable
        service.trouble = None
        service.asked.clear()
        with pytest.raises(DependencyFault, match="a moment ago") as told:  # threads do not queue up for it
            wrap.unwrap(wrapped, b"")
        assert told.value.retryable
        assert service.asked == []
        wrap._now = lambda: time.monotonic() + 2
        assert wrap.unwrap(wrapped, b"") == KEY


def test_key_vault_without_the_key(tmp_path):
    with serving(tmp_path) as service:
        service.trouble = 404
        with pytest.raises(DependencyFault, match="404"):
            azure(service)
        assert not [path for path in service.asked if path.startswith("POST")]


def test_a_rotation_elsewhere_is_noticed(tmp_path):
    at = [0.0]
    with serving(tmp_path) as service:
        wrap = azure(service, lambda: at[0])
        before = wrap.wrap(KEY, b"")
        service.rotate()
        assert wrap.older([before]) == [False]
        at[0] = 301.0
        assert wrap.older([before, wrap.wrap(KEY, b"")]) == [True, False]
        assert wrap.unwrap(before, b"") == KEY


def test_another_servers_certificate_is_refused(tmp_path):
    (tmp_path / "other").mkdir()
    with serving(tmp_path) as service, serving(tmp_path / "other") as other:
        service.authority = other.authority
        with pytest.raises(DependencyFault):
            azure(service)
        assert service.asked == []


def test_only_the_identity_that_is_named_is_used(monkeypatch):
    """No chain that tries whatever the machine offers: a secret in the environment is not ours to use."""
    monkeypatch.setenv("AZURE_CLIENT_SECRET", "planted-ambient-secret")
    for name in ("AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_FEDERATED_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    assert type(identity(AzureIdentity(kind="managed"))).__name__ == "ManagedIdentityCredential"
    secret = AzureIdentity(kind="secret", tenant="t", client_id="c", client_secret=SecretStr("planted-own-secret"))
    assert type(identity(secret)).__name__ == "ClientSecretCredential"
    assert "planted" not in repr(secret)
    with pytest.raises(ConfigFault, match="not complete"):
        identity(AzureIdentity(kind="workload"))
