"""`incidents` of the configuration: playbooks, and who must agree before an attack is contained or let go."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from limen.incidents.response_settings import ResponseSettings

Kind = Literal[
    "end_session", "lock_caller", "block_client", "revoke_token", "revoke_grants", "quarantine_tool",
    "quarantine_server", "cut_egress", "read_only", "stop_all",
]  # fmt: skip
_GRAVE: Final = ("stop_all", "revoke_grants")  # a mistake in one of them stops everybody, or cannot be undone
_People = Annotated[int, Field(ge=1, le=2)]


class People(BaseModel):
    """Distinct people for one kind of action; what is left out is as for all others."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True, hide_input_in_errors=True)

    apply: _People | None = None
    release: _People | None = None


class IncidentSettings(ResponseSettings):
    """What is done about an attack, and who must agree."""

    release_approvers: _People = Field(default=1, description="before anything is taken back")
    apply_approvers: _People = Field(default=1, description="before stop_all and revoke_grants are in force")
    actions: dict[Kind, People] = Field(default={}, description="otherwise for one kind of action")

    def to_apply(self, kind: str) -> int:
        """How many people must agree before this is in force."""
        own = self._own(kind).apply
        return own if own is not None else self.apply_approvers if kind in _GRAVE else 1

    def to_release(self, kind: str) -> int:
        """How many people must agree before this is taken back."""
        own = self._own(kind).release
        return own if own is not None else self.release_approvers

    def _own(self, kind: str) -> People:
        return next((people for name, people in self.actions.items() if name == kind), People())
