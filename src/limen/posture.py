"""The whole security posture on one screen. To change what is enforced, change this file.

Order is meaning: a guard may rely only on facts established above it, and the chain checks that at start-up.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from limen.catalog.decoys import Decoy
from limen.catalog.resolve import Resolve
from limen.catalog.schema import ValidateArguments, ValidateResult
from limen.core.call import (
    Approval,
    Approved,
    Caller,
    Cleared,
    Grant,
    Inspected,
    Protected,
    Session,
    UpstreamCredential,
    Weighed,
)  # fmt: skip
from limen.credentials.attach import AttachCredential
from limen.detection.flow import CheckFlow, ReadFlow, RecordFlow
from limen.detection.inspect import InspectArguments, InspectMessages, InspectResult
from limen.detection.neutralise import Neutralise
from limen.detection.tokenise import Protect, Reveal
from limen.identity.authenticate import Authenticate
from limen.identity.bind_session import BindSession, SpendState
from limen.identity.revoked import Revoked
from limen.incidents.contain import Contained, Halted
from limen.incidents.weigh import Weigh
from limen.policy.approval import RequireApproval
from limen.policy.authorize import Authorize
from limen.policy.limit import Limit, Spend
from limen.protocol.inbound import header_agreement, known_method, origin, revision, size, strict_json

ADMIT: Final = (size, origin, strict_json, revision, header_agreement, known_method)  # pure; bytes -> Call

CALLER: Final = (Authenticate, Revoked, BindSession, Halted, Limit)
CALL: Final = (
    *CALLER, ReadFlow, Decoy, Resolve, Authorize, Contained, ValidateArguments, InspectArguments, CheckFlow, Weigh,
    RequireApproval,
    Protect, Spend, SpendState, AttachCredential,
)  # fmt: skip
RESULT: Final = (ValidateResult, InspectResult, RecordFlow, Reveal, Neutralise)
MESSAGES: Final = InspectMessages  # what a server says while a call runs
PERMIT: Final = (Caller, Session, Approved, Grant, Inspected, Cleared, Weighed, Approval, Protected, UpstreamCredential)


@dataclass(frozen=True, slots=True)
class Forward:
    """Decided by CALL, sent to a server, and what comes back is judged by RESULT."""


@dataclass(frozen=True, slots=True)
class Local:
    """Decided by CALLER and answered by us. `lists`: the kind of which the caller is shown what it could call."""

    lists: str = ""


METHODS: Final = MappingProxyType(
    {  # a method that is not here is refused
        "tools/call": Forward(),
        "resources/read": Forward(),
        "prompts/get": Forward(),
        "completion/complete": Forward(),
        "tools/list": Local(lists="tool"),  # answered from the catalog, never forwarded
        "resources/list": Local(lists="resource"),
        "resources/templates/list": Local(lists="template"),
        "prompts/list": Local(lists="prompt"),
        "subscriptions/listen": Local(),
        "server/discover": Local(),
        "initialize": Local(),
        "logging/setLevel": Local(),
        "ping": Local(),
        "notifications/initialized": Local(),
        "notifications/cancelled": Local(),
        "notifications/progress": Local(),
        "notifications/roots/list_changed": Local(),
        "": Local(),  # a client's answer to a question of ours
    }
)  # left out on purpose: resources/subscribe and unsubscribe, tasks/* (until their guards exist)

FROM_SERVER: Final = ("elicitation/create", "notifications/progress", "notifications/message")
# left out on purpose: sampling/createMessage, roots/list (deprecated by the protocol)
