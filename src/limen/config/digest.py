"""A configuration as one number, for the log: the same for what means the same, in every process."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, Any

import orjson
from pydantic import BaseModel, SecretBytes, SecretStr

if TYPE_CHECKING:
    from limen.config.model import Config


def config_digest(config: Config) -> str:
    """SHA-256 of all settings, defaults included and secrets left out: it tells nothing of them, not that one changed
    either."""
    return sha256(orjson.dumps(_plain(config), option=orjson.OPT_SORT_KEYS)).hexdigest()


def _plain(value: Any) -> Any:
    if isinstance(value, SecretStr | SecretBytes):
        return "(secret)"
    if isinstance(value, BaseModel):
        return {name: _plain(getattr(value, name)) for name in type(value).model_fields}
    if isinstance(value, dict):
        return {str(name): _plain(member) for name, member in value.items()}
    if isinstance(value, frozenset | set):
        return sorted((_plain(member) for member in value), key=str)
    if isinstance(value, list | tuple):
        return [_plain(member) for member in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)
