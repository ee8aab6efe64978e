"""What a rule may `require` of the sign-in and of the person, and the step-up challenge when it is not there.

    require: [mfa, fresh(10m), device(compliant), acr(urn:example:gold), user, approval, durable]

`fresh(10m)`: the person signed in no longer ago than this. `device(a b)`, `acr(a b)`: one of these. `user`: not an
application on its own account. `approval` and `durable` are the business of other guards.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final

from limen.core.call import Caller
from limen.core.verdict import Refuse, refuse

PLAIN: Final = frozenset({"mfa", "approval", "durable", "user"})
_FORM: Final = re.compile(r"(fresh|device|acr)\(([^()]*)\)\Z")
_DURATION: Final = re.compile(r"([1-9][0-9]{0,6})([smhd])\Z")
_UNITS: Final = MappingProxyType({"s": 1, "m": 60, "h": 3600, "d": 86_400})
_VALUE: Final = re.compile(r"[A-Za-z0-9._:/#~+-]{1,255}\Z")
_CLOCKS: Final = 60.0  # seconds a sign-in may lie in the future: clocks differ by no more where tokens are accepted
StepUp = Mapping[str, tuple[str, ...]]  # "mfa" or "device" -> acr values to ask for; having one of them is proof too


def requirement(text: str) -> str:
    """The one spelling of a requirement: `fresh(10m)` becomes `fresh(600s)`. Raises ValueError."""
    if text in PLAIN:
        return text
    match = _FORM.match(text)
    if match is None:
        raise ValueError(
            f"{text!r} is none of mfa, user, approval, durable, fresh(10m), device(LEVEL ...) and acr(VALUE ...)"
        )
    kind, inside = match.groups()
    if kind == "fresh":
        duration = _DURATION.match(inside)
        if duration is None:
            raise ValueError(f"{inside!r} is no time such as 90s, 10m, 8h or 1d")
        return f"fresh({int(duration[1]) * _UNITS[duration[2]]}s)"
    values = inside.split()
    if not values or not all(_VALUE.match(value) for value in values):
        raise ValueError(f"{text!r} names no value, or one with characters it cannot have")
    return f"{kind}({' '.join(dict.fromkeys(values))})"


@dataclass(frozen=True, slots=True)
class Assurance:
    """What all rules together require of the caller. `acrs`, `devices`: of each tuple, one."""

    mfa: bool = False
    user: bool = False
    fresh: int | None = None  # seconds
    devices: tuple[tuple[str, ...], ...] = ()
    acrs: tuple[tuple[str, ...], ...] = ()

    def missing(self, caller: Caller, now: float, step_up: StepUp) -> list[str]:
        """What the caller's token does not show, for the operator; empty when it shows all of it."""
        held = caller.contexts | {caller.acr} - {""}
        found = []
        if self.user and caller.machine:
            found.append("user")
        if self.mfa and not caller.mfa and held.isdisjoint(step_up.get("mfa", ())):
            found.append("mfa")
        if self.fresh is not None and not _is_fresh(caller.auth_time, now, self.fresh):
            found.append(f"fresh({self.fresh}s)")
        found += [f"device({' '.join(any_of)})" for any_of in self.devices if caller.device not in any_of]
        found += [f"acr({' '.join(any_of)})" for any_of in self.acrs if held.isdisjoint(any_of)]
        return found

    def challenge(self, step_up: StepUp) -> dict[str, Any]:
        """RFC 9470 section 3: everything these rules need of a sign-in, at once, whoever asks."""
        wanted = [value for any_of in self.acrs for value in any_of]
        wanted += step_up.get("mfa", ()) if self.mfa else ()
        wanted += step_up.get("device", ()) if self.devices else ()
        public: dict[str, Any] = {"acr_values": list(dict.fromkeys(wanted))} if wanted else {}
        return public if self.fresh is None else {**public, "max_age": self.fresh}


def _is_fresh(auth_time: int | None, now: float, seconds: int) -> bool:
    return auth_time is not None and -_CLOCKS <= now - auth_time <= seconds


@lru_cache(maxsize=4096)
def assurance_of(requires: frozenset[str]) -> Assurance | None:
    """Requirements in their one spelling, read. None: nothing is asked of the caller."""
    times = [int(one[6:-2]) for one in requires if one.startswith("fresh(")]
    made = Assurance(
        "mfa" in requires,
        "user" in requires,
        min(times) if times else None,
        tuple(tuple(one[7:-1].split()) for one in sorted(requires) if one.startswith("device(")),
        tuple(tuple(one[4:-1].split()) for one in sorted(requires) if one.startswith("acr(")),
    )
    return None if made == Assurance() else made


def unsatisfied(requires: frozenset[str], caller: Caller, now: float, step_up: StepUp) -> Refuse | None:
    """The refusal of a caller who may do this, but not with this sign-in. `now`: seconds since the epoch.

    `policy.denied` where no sign-in could help (an application where a person is needed), else `identity.step_up`.
    """
    asked = assurance_of(requires)
    missing = asked.missing(caller, now, step_up) if asked is not None else []
    if asked is None or not missing:
        return None
    if "user" in missing:
        return refuse("policy.denied", "a rule asks for a person, and this is an application on its own account")
    return refuse("identity.step_up", f"the sign-in does not show: {', '.join(missing)}", **asked.challenge(step_up))
