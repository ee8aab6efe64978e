"""`incidents` of the configuration: which playbooks there are, who must agree to them, and how much they may do."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from limen.core.events import Severity

Word = Annotated[str, Field(min_length=1, max_length=512)]
PROTECTED_KINDS = ("user", "client", "server")


class ResponseSettings(BaseModel):
    """`playbooks`: files, or `shipped:NAME`. `protected`: "user:SUBJECT", "client:ID" or "server:NAME" that no playbook
    ever touches, such as the accounts for emergencies."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    playbooks: tuple[Word, ...] = Field(default=(), max_length=200, description="files, or shipped:NAME")
    approvers: Annotated[int, Field(ge=1, le=5, description="distinct people who must approve a playbook")] = 1
    protected: tuple[Word, ...] = Field(default=(), max_length=1000)
    per_hour: Annotated[
        int, Field(ge=1, le=10_000, description="subjects all playbooks together contain in an hour")
    ] = 50
    share: Annotated[float, Field(gt=0, le=1, description="of the callers active within an hour; at least one")] = 0.1
    open_from: Literal["none"] | Severity = Field(
        default="high", description="severity from which an alert opens an incident"
    )

    @field_validator("protected")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for one in value:
            kind, colon, name = one.partition(":")
            if kind not in PROTECTED_KINDS or not colon or not name:
                raise ValueError('protected reads "user:SUBJECT", "client:ID" or "server:NAME"')
        return value
