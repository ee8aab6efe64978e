"""Composition of alerts: the watch that raises them, and what delivers them, for one configuration."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import TYPE_CHECKING

from limen.adapters.hooks import Hooks
from limen.adapters.smtp import Smtp
from limen.incidents.alert_settings import MailRoute
from limen.incidents.alerts import Alerting, Record
from limen.incidents.delivery import Delivery, way

if TYPE_CHECKING:
    from limen.config.model import Config
    from limen.storage import State


def open_alerting(config: Config, state: State, record: Record, log: str) -> Alerting:
    """Counts what happens in the log of this name. Raises DependencyFault."""
    settings = config.alerts
    return Alerting(state.alerts, settings.in_force, log, record, settings.told)


def open_delivery(config: Config, state: State, record: Record, say: Callable[[str], None]) -> Delivery:
    """Tells whom the configuration names."""
    settings, hooks = config.alerts, Hooks()
    ways = [way(route, hooks, open_mailer, config.listen.url) for route in settings.routes]
    holder = f"{config.audit.name}.{secrets.token_hex(8)}"
    return Delivery(state.alerts, ways, holder, record, say, give_up=settings.give_up)


def open_mailer(route: MailRoute) -> Smtp:
    """The server of a route."""
    login = (route.user, route.password.get_secret_value()) if route.user and route.password else None
    return Smtp(route.host, route.port, route.tls, login)
