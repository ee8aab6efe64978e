"""Composition root of the authorization server: settings and state in, its endpoints by path out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from limen.oauth.web import Handler


@dataclass(slots=True)
class SignIn:
    """The endpoints of the authorization server. Without `oauth` in the configuration there are none."""

    endpoints: Mapping[bytes, Handler] = field(default_factory=dict)  # by exact path
    below: Mapping[bytes, Handler] = field(default_factory=dict)  # by the path before its last segment, with the slash
