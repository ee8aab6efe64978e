"""Key-encryption keys in a hardware security module: implements `core.ports.KeyWrap` over PKCS#11 v2.40.

A key is an AES-256 object of the token, named by its label and numbered by its id. It is made there, sensitive and not
extractable, and one that is not so is refused. A wrapped key is the number (4 bytes), a nonce (12) and what the module
made of it with CKM_AES_GCM, context as associated data.

Calls wait for the device, one at a time: not every module takes several threads. They are rare, one for each data key
and minute. A session that was lost is opened again once.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import pkcs11
from pkcs11 import Attribute, GCMParams, KeyType, Mechanism, MechanismFlag, ObjectClass, Session
from pkcs11 import exceptions as faults

from limen.core.faults import ConfigFault, DependencyFault

_NONCE: Final = 12
_LOST: Final = (
    faults.SessionHandleInvalid, faults.SessionClosed, faults.DeviceRemoved, faults.TokenNotPresent,
    faults.UserNotLoggedIn, faults.KeyHandleInvalid, faults.ObjectHandleInvalid,
)  # fmt: skip
_CHANGED: Final = (faults.EncryptedDataInvalid, faults.EncryptedDataLenRange, faults.GeneralError)
T = TypeVar("T")


class Pkcs11KeyWrap:
    """The keys of one label in one token."""

    def __init__(self, module: Path, token: str, pin: str, key: str, *, create: bool) -> None:
        """Makes a first key if there is none and `create`. Raises ConfigFault for a library, token, PIN or key that is
        not there or not as it must be, DependencyFault when the device fails."""
        self._place, self._pin, self._label = (str(module), token), pin, key
        self._lock, self._session = threading.Lock(), None  # type: tuple[threading.Lock, Session | None]
        if not self._run(self._found):
            if not create:
                raise ConfigFault("the key-encryption key is not in the token; restore it", f"{token}: {key}")
            self._run(lambda session: self._make(session, 1))

    def wrap(self, key: bytes, context: bytes) -> bytes:
        nonce = secrets.token_bytes(_NONCE)

        def work(session: Session) -> bytes:
            number, kek = max(self._held(session).items())
            param = GCMParams(nonce, context, 128)
            sealed: bytes = kek.encrypt(key, mechanism=Mechanism.AES_GCM, mechanism_param=param)
            return number.to_bytes(4, "big") + nonce + sealed

        return self._run(work)

    def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        nonce, sealed = wrapped[4 : 4 + _NONCE], wrapped[4 + _NONCE :]

        def work(session: Session) -> bytes:
            kek = self._held(session).get(int.from_bytes(wrapped[:4], "big"))
            if kek is None or len(sealed) < 16:
                raise DependencyFault("pkcs11", "a data key is wrapped by a key that is not held", retryable=False)
            try:
                key: bytes = kek.decrypt(
                    sealed, mechanism=Mechanism.AES_GCM, mechanism_param=GCMParams(nonce, context, 128)
                )
            except _CHANGED:  # a failed check is a general error to SoftHSM
                raise DependencyFault("pkcs11", "a wrapped data key was changed", retryable=False) from None
            return key

        return self._run(work)

    def newest(self, wrapped: bytes) -> bool:
        return int.from_bytes(wrapped[:4], "big") == max(self._run(self._held))

    def rotate(self) -> None:
        self._run(lambda session: self._make(session, max(self._held(session)) + 1))

    def retire(self) -> None:
        def work(session: Session) -> None:
            held = self._held(session)
            for number in sorted(held)[:-1]:
                held[number].destroy()

        self._run(work)

    def __repr__(self) -> str:
        return f"Pkcs11KeyWrap({self._place[1]!r}, {self._label!r})"

    def _make(self, session: Session, number: int) -> None:
        session.generate_key(
            KeyType.AES, 256, id=number.to_bytes(4, "big"), label=self._label, store=True,
            capabilities=MechanismFlag.ENCRYPT | MechanismFlag.DECRYPT,
            template={Attribute.SENSITIVE: True, Attribute.EXTRACTABLE: False, Attribute.PRIVATE: True},
        )  # fmt: skip
        self._found(session)  # another replica may have made one of the same number just now

    def _held(self, session: Session) -> dict[int, Any]:
        held = self._found(session)
        if not held:
            raise DependencyFault("pkcs11", "the key-encryption key is gone", retryable=False)
        return held

    def _found(self, session: Session) -> dict[int, Any]:
        """By number. Raises ConfigFault for keys that could leave the token or cannot be told apart."""
        found: dict[int, Any] = {}  # what a key can do depends on the key
        kind = {Attribute.CLASS: ObjectClass.SECRET_KEY, Attribute.LABEL: self._label}
        for one in session.get_objects(kind):
            number, where = int.from_bytes(one[Attribute.ID], "big"), f"{self._place[1]}: {self._label}"
            if one[Attribute.EXTRACTABLE] or not one[Attribute.SENSITIVE]:
                raise ConfigFault(f"key {number} can be taken out of the token", where)
            if not one[Attribute.ENCRYPT] or not one[Attribute.DECRYPT]:
                raise ConfigFault(f"key {number} is not for encryption", where)
            if one[Attribute.KEY_TYPE] != KeyType.AES or one[Attribute.VALUE_LEN] != 32:
                raise ConfigFault(f"key {number} is not of AES-256", where)
            if number in found or not number < 1 << 32:
                raise ConfigFault(f"there are two keys of number {number}, or it is too large", where)
            found[number] = one
        return found

    def _run(self, work: Callable[[Session], T]) -> T:
        """One piece of work in a session. Raises what it raises, and DependencyFault for trouble of the device."""
        with self._lock:
            for attempt in (1, 2):
                try:
                    if self._session is None:
                        self._session = self._open()
                    return work(self._session)
                except _LOST as error:
                    self._session = None
                    if attempt == 2:
                        raise DependencyFault("pkcs11", type(error).__name__) from None
                except faults.PKCS11Error as error:
                    self._session = None
                    raise DependencyFault("pkcs11", type(error).__name__) from None
            raise AssertionError("not reached")

    def _open(self) -> Session:
        module, label = self._place
        try:
            token = pkcs11.lib(module).get_token(token_label=label)
            try:
                return token.open(user_pin=self._pin, rw=True)
            except faults.UserAlreadyLoggedIn:  # another of our sessions did: logging in is for the whole process
                return token.open(rw=True)
        except (faults.PinIncorrect, faults.PinInvalid, faults.PinLenRange, faults.PinLocked, faults.PinExpired) as no:
            raise ConfigFault(f"the token does not take the PIN: {type(no).__name__}", "vault.keys.pin") from None
        except (faults.NoSuchToken, faults.MultipleTokensReturned) as no:
            raise ConfigFault(f"not one token of that label: {type(no).__name__}", "vault.keys.token") from None
        except faults.PKCS11Error as error:
            if type(error) is faults.PKCS11Error:  # the library itself could not be loaded
                raise ConfigFault("the PKCS#11 library cannot be loaded", f"vault.keys.module: {module}") from None
            raise
