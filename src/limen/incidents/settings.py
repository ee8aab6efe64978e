"""`incidents` of the configuration."""

from __future__ import annotations

from limen.incidents.response_settings import ResponseSettings


class IncidentSettings(ResponseSettings):
    """What is done about an attack."""
