"""Counts of events as Prometheus reads them (text format 0.0.4). Pure, and bounded whoever calls.

A label's value is one of ours (types, categories, reasons, configured names) or the name of an approved definition in
a call that was let through. Names strangers may choose never make a series.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

from limen.audit.semantics import BOUNDS, DURATION, failed
from limen.core.events import Event
from limen.core.reasons import REASONS
from limen.protocol.methods import METHODS

MOST_SERIES: Final = 2000  # of one metric; beyond that values become "other"
OTHER: Final = "other"
CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
Labels = tuple[tuple[str, str], ...]


class Gauge(NamedTuple):
    """A value as it is now."""

    name: str
    help: str
    labels: Labels
    value: float


_HELP: Final = MappingProxyType(
    {
        "limen_events_total": "Events of the log by type and severity.",
        "limen_calls_total": "Calls that ended, by server, approved name, method and reason.",
        "limen_refusals_total": "Calls that were refused, by reason.",
        "limen_findings_total": "Findings in content, by kind.",
    }
)
_DURATION: Final = DURATION.replace(".", "_") + "_seconds"


class Counts:
    """What one process saw since it started. One thread counts, another may render."""

    def __init__(self, servers: Iterable[str]) -> None:
        self._servers = frozenset(servers)
        self._counters: dict[str, dict[Labels, float]] = {name: {} for name in _HELP}
        self._durations: dict[Labels, list[float]] = {}

    def see(self, event: Event) -> None:
        """Count it."""
        self._add("limen_events_total", (("type", _known(event.type)), ("severity", event.severity)))
        method = event.method if event.method in METHODS else OTHER
        if event.type in ("call.outcome", "call.local"):
            reason = event.reason if event.reason in REASONS else "ok"
            server = event.server if event.server in self._servers else OTHER if event.server else ""
            name = event.name if event.digest and server not in ("", OTHER) else ""
            place = (("server", server), ("name", name), ("method", method))
            self._add("limen_calls_total", (*place, ("reason", reason)))
            if event.ms is not None:
                self._time(
                    (("server", server), ("method", method), ("error", failed(event) and reason)), event.ms / 1000
                )
        elif event.type == "call.refused":
            reason = event.reason if event.reason in REASONS else OTHER
            self._add("limen_refusals_total", (("reason", reason), ("method", method)))
        for finding in event.findings:
            self._add("limen_findings_total", (("kind", finding.partition(".")[0][:32]),))

    def _add(self, name: str, labels: Labels) -> None:
        series = self._counters[name]
        key = _bounded(series, labels)
        series[key] = series.get(key, 0.0) + 1

    def _time(self, labels: Labels, seconds: float) -> None:
        row = self._durations.setdefault(_bounded(self._durations, labels), [0.0] * (len(BOUNDS) + 2))
        row[bisect_left(BOUNDS, seconds)] += 1
        row[-1] += seconds

    def render(self, gauges: Iterable[Gauge] = ()) -> str:
        """All of it, in the text format."""
        lines: list[str] = []
        for name, series in self._counters.items():
            lines += [f"# HELP {name} {_HELP[name]}", f"# TYPE {name} counter"]
            lines += [f"{name}{_labels(labels)} {value:g}" for labels, value in sorted(series.copy().items())]
        lines += [f"# HELP {_DURATION} Time a call took here and at its server.", f"# TYPE {_DURATION} histogram"]
        for labels, row in sorted(self._durations.copy().items()):
            lines += _histogram(labels, list(row))
        told = ""
        for gauge in gauges:
            if gauge.name != told:
                told = gauge.name
                lines += [f"# HELP {gauge.name} {gauge.help}", f"# TYPE {gauge.name} gauge"]
            lines.append(f"{gauge.name}{_labels(gauge.labels)} {gauge.value:.10g}")
        return "\n".join(lines) + "\n"


def _histogram(labels: Labels, row: list[float]) -> list[str]:
    total, lines = 0.0, list[str]()
    for bound, count in zip((*map(str, BOUNDS), "+Inf"), row[:-1], strict=True):
        total += count
        lines.append(f"{_DURATION}_bucket{_labels((*labels, ('le', bound)))} {total:g}")
    lines += [f"{_DURATION}_sum{_labels(labels)} {row[-1]:.10g}", f"{_DURATION}_count{_labels(labels)} {total:g}"]
    return lines


def _bounded(series: Mapping[Labels, object], labels: Labels) -> Labels:
    """These labels, or once there are too many series, labels that say nothing."""
    if labels in series or len(series) < MOST_SERIES:
        return labels
    return tuple((name, OTHER) for name, _ in labels)


def _known(kind: str) -> str:
    """Types are ours, but their second part is data: only short plain ones make a series."""
    return kind if len(kind) <= 64 and kind.replace(".", "").replace("_", "").isalnum() and kind.isascii() else OTHER


def _labels(labels: Labels) -> str:
    if not labels:
        return ""
    inner = ",".join(f'{name}="{_escaped(value)}"' for name, value in labels)
    return f"{{{inner}}}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
