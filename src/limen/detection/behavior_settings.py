"""Settings of what is usual, and of decoys."""

from __future__ import annotations

from typing import Annotated, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import BaseModel, ConfigDict, Field, field_validator


class BehaviorSettings(BaseModel):
    """What is usual for each caller, client, server and tool, learnt from the log, and when what is not is told."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    enabled: bool = True
    warm_up_days: int = Field(default=7, ge=1, le=90, description="days with calls before anything is said of somebody")
    warm_up_calls: int = Field(default=50, ge=10, le=100_000)
    sensitivity: Literal["low", "normal", "high"] = "normal"
    time_zone: str = Field(default="UTC", description="IANA name: when days and nights are, such as Europe/Berlin")
    memory_days: Annotated[float, Field(ge=3, le=365, description="after so many days half is forgotten")] = 30.0
    entities: Annotated[
        int, Field(ge=16, le=1_000_000, description="kept in memory, about 20 KiB each; the others are read when met")
    ] = 4_000

    @field_validator("time_zone")
    @classmethod
    def _known(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError("no such time zone") from None
        return value

    @property
    def shift(self) -> float:
        """Added to the logit of each score."""
        return {"low": -1.0, "normal": 0.0, "high": 1.0}[self.sensitivity]
