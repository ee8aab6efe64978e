"""`risk:` in the configuration: from which risk a call is watched closely, held for a person, refused."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from limen.incidents.risk import Limits

Share = Annotated[float, Field(gt=0.0, le=1.0)]


class ThreatSettings(BaseModel):
    """Limits of the fused risk. A tool's own stricter `content_safety` or `max_risk` holds besides."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True, hide_input_in_errors=True)

    record: Share = Field(default=0.2, description="from here on a call is on disk before it goes on")
    ask: Share = Field(default=0.5, description="from here on a person must approve it")
    block: Share = Field(default=0.8, description="from here on it is refused")
    age: float = Field(
        default=5.0, ge=1.0, le=60.0, description="seconds what is known of others may be old; then it is read anew"
    )
    unsafe_observe: bool = Field(default=False, description="risk is recorded, and nothing is held or refused for it")

    @model_validator(mode="after")
    def _graded(self) -> ThreatSettings:
        if not self.record <= self.ask <= self.block:
            raise ValueError("record comes before ask, and ask before block")
        return self

    @property
    def limits(self) -> Limits:
        """The three."""
        return Limits(self.record, self.ask, self.block)
