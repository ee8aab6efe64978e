"""What all parts of the file have in common."""

from __future__ import annotations

from typing import Final

from pydantic import BaseModel, ConfigDict

STATE: Final = "limen-state"


class Part(BaseModel):
    """Unknown keys are errors, values never change after loading, and messages never quote what was given."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True, hide_input_in_errors=True)
