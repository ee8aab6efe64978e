"""Guard Authorize: may this caller do this? And the same rules as a filter of lists."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from limen.core.call import Approved, Caller, Context, FlowState, Grant
from limen.core.verdict import Verdict, refuse
from limen.policy.compile import compile_policy
from limen.policy.decision import PolicySet

__all__ = ["Authorize", "PolicySet", "compile_policy"]

ACTIONS: Final = {
    "tools/call": "call",
    "prompts/get": "get",
    "resources/read": "read",
    "resources/subscribe": "read",
    "resources/unsubscribe": "read",
    "completion/complete": "complete",
}


class Authorize:
    """Decides by the policy of the snapshot. Default deny, deny wins.

    Refuses `identity.scope` with every scope that is missing when nothing else is, `identity.step_up` (RFC 9470) when a
    matching rule requires a stronger or fresher sign-in than the token shows, `policy.not_visible` when no arguments
    could help, else `policy.denied`.
    """

    needs = (Caller, Approved, FlowState)
    gives = (Grant,)

    def __init__(self, policy: PolicySet) -> None:
        self.policy = policy

    def check(self, context: Context) -> Verdict:
        """Judge one call, before its arguments have been validated."""
        call, approved = context.call, context.get(Approved)
        action = ACTIONS.get(call.method)
        if action is None:
            return refuse("policy.denied", f"{call.method} is no action a policy knows")
        name = call.name if approved.kind == "template" and action == "read" else ""
        caller, flow = context.get(Caller), context.get(FlowState)
        return self.policy.decide(caller, approved, call.arguments, action=action, name=name, flow=flow).verdict

    def visible(self, caller: Caller, items: Sequence[Approved]) -> list[Approved]:
        """Those the caller could call with some arguments, whatever it has read.

        Raises InvariantFault when Cedar gives no decision.
        """
        self.policy.foresee(caller, items)
        return [item for item in items if self.policy.visible(caller, item)]
