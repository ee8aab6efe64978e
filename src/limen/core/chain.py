"""Runs guards in order, turns faults into refusals, and proves the order at start-up.

The one place where an exception becomes a decision, and the decision is always no.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Generator, Sequence
from typing import Any, Final, Protocol, cast

from limen.core.call import Context
from limen.core.faults import DependencyFault, InvariantFault
from limen.core.reasons import REASONS
from limen.core.verdict import _SEAL, Pass, Permit, Refusal, Refuse, Replace, ResultVerdict, Verdict


class Guard(Protocol):
    """One question. `needs` and `gives` are fact types; no base class, no defaults.

    `check` may answer at once or hand back an awaitable, which then runs under the call's deadline.
    """

    @property
    def needs(self) -> tuple[type, ...]: ...
    @property
    def gives(self) -> tuple[type, ...]: ...
    def check(self, context: Context) -> Verdict | Awaitable[Verdict]: ...


class ResultGuard(Protocol):
    """One question about a result on its way back. `result` is the guard's own to read, never to change.

    `check_result` may answer at once or hand back an awaitable.
    """

    def check_result(self, permit: Permit, result: dict[str, Any]) -> ResultVerdict | Awaitable[ResultVerdict]: ...


Judged = tuple[dict[str, Any], tuple[str, ...]] | Refusal
_VERDICTS: Final = (Pass, Replace, Refuse)
_AT_ONCE: Final = (Pass, Refuse)


class Chain:
    """An ordered list of guards that proves `proves`. Raises InvariantFault at construction when it cannot."""

    def __init__(self, guards: Sequence[Guard], proves: Sequence[type] = ()) -> None:
        established: set[type] = set()
        for guard in guards:
            missing = [fact.__name__ for fact in guard.needs if fact not in established]
            if missing:
                raise InvariantFault(f"{type(guard).__name__} stands above what it needs: {', '.join(missing)}")
            twice = [fact.__name__ for fact in guard.gives if fact in established]
            if twice:
                raise InvariantFault(f"{type(guard).__name__} gives again: {', '.join(twice)}")
            established.update(guard.gives)
        unproven = [fact.__name__ for fact in proves if fact not in established]
        if unproven:
            raise InvariantFault(f"nobody gives what forwarding needs: {', '.join(unproven)}")
        self.guards = tuple((guard.check, type(guard).__name__, tuple(guard.gives)) for guard in guards)
        self.proves = frozenset(proves)

    async def run(self, context: Context) -> Context | tuple[Refusal, Context]:
        """Walk the corridor. The enriched context, or the first refusal with what was proven before it."""
        context = context.having(())
        for check, name, gives in self.guards:
            try:
                answer = check(context)
                if type(answer) is not Pass:
                    if not isinstance(answer, _AT_ONCE):
                        async with asyncio.timeout(max(0.0, context.remaining)):
                            answer = await answer
                    if type(answer) is Refuse:
                        return Refusal(answer.reason, context.reference, name, answer.detail, answer.public), context
                    if type(answer) is not Pass:
                        raise InvariantFault(f"{name} answered neither Pass nor Refuse")
                if answer.facts or gives:
                    context._establish(gives, answer.facts)
            except DependencyFault as fault:
                return Refusal(REASONS["fault.dependency"], context.reference, name, str(fault)), context
            except TimeoutError:
                return Refusal(REASONS["fault.dependency"], context.reference, name, "deadline passed"), context
            except Exception as error:  # noqa: BLE001 - a crashing guard refuses
                detail = f"{type(error).__name__}: {error}"
                return Refusal(REASONS["fault.guard"], context.reference, name, detail), context
        return context

    def permit(self, context: Context) -> Permit:
        """Mint the Permit for a context this chain let through. Facts are looked at again before sealing."""
        facts = context._facts  # not a view of them: the walk is over, so nobody adds to them any more
        if not self.proves or not facts.keys() >= self.proves:
            missing = ", ".join(fact.__name__ for fact in self.proves - facts.keys())
            raise InvariantFault(f"not proven: {missing or 'nothing was asked for'}")
        return Permit(_SEAL, context.call, facts, context.reference)


def run_result(
    guards: Sequence[ResultGuard], permit: Permit, result: dict[str, Any], seconds: float = 60.0
) -> Judged | Awaitable[Judged]:
    """Walk the way back. The result to send with notes for the audit, or the refusal that takes its place.

    At once where every guard answers at once; else an awaitable, of which guards take at most `seconds` in all.
    """
    steps = _steps(guards, permit, result)
    try:
        pending = next(steps)
    except StopIteration as done:
        return cast("Judged", done.value)
    return _finish(steps, pending, seconds)


def _steps(
    guards: Sequence[ResultGuard], permit: Permit, result: dict[str, Any]
) -> Generator[Awaitable[ResultVerdict], ResultVerdict, Judged]:
    notes: list[str] = []
    for guard in guards:
        name = type(guard).__name__
        try:
            answer = guard.check_result(permit, result)
            if type(answer) is Pass:
                continue
            if type(answer) not in _VERDICTS and isinstance(answer, Awaitable):
                answer = yield answer
        except DependencyFault as fault:
            return Refusal(REASONS["fault.dependency"], permit.reference, name, str(fault))
        except TimeoutError:
            return Refusal(REASONS["fault.dependency"], permit.reference, name, "deadline passed")
        except Exception as error:  # noqa: BLE001 - a crashing guard refuses
            return Refusal(REASONS["fault.guard"], permit.reference, name, f"{type(error).__name__}: {error}")
        if type(answer) is Refuse:
            return Refusal(answer.reason, permit.reference, name, answer.detail, answer.public)
        if type(answer) is Replace:
            result = answer.result
            if answer.detail:
                notes.append(f"{name}: {answer.detail}")
        elif type(answer) is not Pass:
            return Refusal(REASONS["fault.guard"], permit.reference, name, "answered nothing known")
    return result, tuple(notes)


async def _finish(
    steps: Generator[Awaitable[ResultVerdict], ResultVerdict, Judged],
    pending: Awaitable[ResultVerdict],
    seconds: float,
) -> Judged:
    """Await what guards hand over; what goes wrong meanwhile goes wrong in the guard that handed it over."""
    deadline = time.monotonic() + seconds
    while True:
        failed: Exception | None = None
        try:
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                answer = await pending
        except Exception as error:  # noqa: BLE001 - thrown into the walk, which refuses
            failed = error
        try:
            pending = steps.send(answer) if failed is None else steps.throw(failed)
        except StopIteration as done:
            return cast("Judged", done.value)
