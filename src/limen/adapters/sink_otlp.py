"""OTLP 1.x over HTTP with protobuf: traces, metrics and logs made of events."""

from __future__ import annotations

import socket
import time
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import Final

from google.protobuf.json_format import Parse as ParseJson
from google.protobuf.json_format import ParseError as JsonError
from google.protobuf.message import DecodeError, Message
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest, ExportLogsServiceResponse
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord, ResourceLogs, ScopeLogs
from opentelemetry.proto.metrics.v1.metrics_pb2 import (
    AggregationTemporality,
    Histogram,
    HistogramDataPoint,
    Metric,
    ResourceMetrics,
    ScopeMetrics,
)
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span, Status

from limen import __version__
from limen.adapters.sink_http import Poster, judge, printable
from limen.audit.export import Entry, Rejected
from limen.audit.follow_settings import OtlpFollower
from limen.audit.lines import render
from limen.audit.semantics import (
    BOUNDS,
    DURATION,
    ENDS,
    SEVERITY,
    Value,
    failed,
    log_attributes,
    measured,
    span_attributes,
    span_name,
    trace_of,
)
from limen.core.faults import DependencyFault

Answer = ExportTraceServiceResponse | ExportMetricsServiceResponse | ExportLogsServiceResponse
_SCOPE: Final = InstrumentationScope(name="limen", version=__version__)
_KIND: Final = {"Content-Type": "application/x-protobuf", "Accept": "application/x-protobuf"}


class OtlpSink:
    """Implements export.Sink. A batch that was sent twice is measured twice: the protocol has no ids for measurements;
    spans and logs carry the record's."""

    def __init__(self, settings: OtlpFollower, poster: Poster, log: str) -> None:
        self._settings, self._poster, self._base = settings, poster, settings.url.rstrip("/")
        self._headers = {**_KIND, **{name: one.get_secret_value() for name, one in settings.headers.items()}}
        about = {"service.name": "limen", "service.version": __version__, "service.instance.id": log}
        self._resource = Resource(attributes=_pairs({**about, "host.name": socket.gethostname()}))

    def send(self, entries: Sequence[Entry]) -> None:
        """Raises Rejected, DependencyFault. A receiver that took only a part of a batch has rejected the batch."""
        signals = self._settings.signals
        ends = [entry for entry in entries if entry.event.type in ENDS and entry.event.method]
        if "traces" in signals and ends:
            self._post("traces", self._traces(ends), ExportTraceServiceResponse(), "rejected_spans")
        if "logs" in signals:
            self._post("logs", self._logs(entries), ExportLogsServiceResponse(), "rejected_log_records")
        timed = [entry for entry in ends if entry.event.ms is not None]
        if "metrics" in signals and timed:
            self._post("metrics", self._metrics(timed), ExportMetricsServiceResponse(), "rejected_data_points")

    def _post(self, signal: str, request: Message, answer: Answer, member: str) -> None:
        found = self._poster.post(f"{self._base}/v1/{signal}", request.SerializeToString(), self._headers)
        body, kind = judge(found), found.headers.get("content-type", "")
        try:
            if "json" in kind:
                ParseJson(body, answer, ignore_unknown_fields=True)
            elif body and "protobuf" not in kind:
                raise DecodeError(kind or "without a type")
            else:
                answer.ParseFromString(body)  # one that says nothing more has taken all of it
        except (DecodeError, JsonError) as error:
            text = f"{signal}: status {found.status}, and no answer of OTLP: {printable(str(error).encode())}"
            raise DependencyFault("sink", text) from None
        if getattr(answer.partial_success, member):
            raise Rejected(f"{signal}: {answer.partial_success.error_message[:200]}")

    def _traces(self, entries: Sequence[Entry]) -> ExportTraceServiceRequest:
        scope = ScopeSpans(scope=_SCOPE, spans=[_span(entry) for entry in entries])
        return ExportTraceServiceRequest(resource_spans=[ResourceSpans(resource=self._resource, scope_spans=[scope])])

    def _logs(self, entries: Sequence[Entry]) -> ExportLogsServiceRequest:
        scope = ScopeLogs(scope=_SCOPE, log_records=[_log(entry) for entry in entries])
        return ExportLogsServiceRequest(resource_logs=[ResourceLogs(resource=self._resource, scope_logs=[scope])])

    def _metrics(self, entries: Sequence[Entry]) -> ExportMetricsServiceRequest:
        grouped: dict[tuple[tuple[str, Value], ...], list[Entry]] = {}
        for entry in entries:
            grouped.setdefault(tuple(sorted(measured(entry.event).items())), []).append(entry)
        histogram = Histogram(aggregation_temporality=AggregationTemporality.AGGREGATION_TEMPORALITY_DELTA)
        histogram.data_points.extend(_point(dict(key), group) for key, group in grouped.items())
        metric = Metric(name=DURATION, unit="s", description="Duration of a call at the gateway", histogram=histogram)
        scope = ScopeMetrics(scope=_SCOPE, metrics=[metric])
        return ExportMetricsServiceRequest(
            resource_metrics=[ResourceMetrics(resource=self._resource, scope_metrics=[scope])]
        )

    def close(self) -> None:
        """Nothing is held open."""


def _span(entry: Entry) -> Span:
    event, trace = entry.event, trace_of(entry.event)
    end = int(event.at * 1e9)
    error = failed(event)
    return Span(
        trace_id=trace.trace,
        span_id=trace.span,
        parent_span_id=trace.parent,
        name=span_name(event),
        kind=Span.SpanKind.SPAN_KIND_SERVER,
        start_time_unix_nano=max(0, end - int((event.ms or 0.0) * 1e6)),
        end_time_unix_nano=end,
        attributes=_pairs({**span_attributes(event), "limen.id": entry.id}),
        status=Status(code=Status.StatusCode.STATUS_CODE_ERROR, message=error) if error else Status(),
    )


def _log(entry: Entry) -> LogRecord:
    event = entry.event
    trace = trace_of(event) if event.ref else None
    return LogRecord(
        time_unix_nano=int(event.at * 1e9),
        observed_time_unix_nano=time.time_ns(),
        severity_number=SEVERITY[event.severity],  # type: ignore[arg-type]  # an enumeration's number
        severity_text=event.severity.upper(),
        event_name=f"limen.{event.type}",
        body=AnyValue(string_value=render("record", entry).decode()),
        attributes=_pairs(log_attributes(entry)),
        trace_id=trace.trace if trace else b"",
        span_id=trace.span if trace else b"",
    )


def _point(attributes: Mapping[str, Value], entries: Sequence[Entry]) -> HistogramDataPoint:
    """One delta: from the first call's begin to the last one's end."""
    seconds = [(entry.event.ms or 0.0) / 1000 for entry in entries]
    counts = [0] * (len(BOUNDS) + 1)
    for one in seconds:
        counts[bisect_left(BOUNDS, one)] += 1
    starts = min(entry.event.at - one for entry, one in zip(entries, seconds, strict=True))
    return HistogramDataPoint(
        attributes=_pairs(attributes),
        start_time_unix_nano=max(0, int(starts * 1e9)),
        time_unix_nano=int(max(entry.event.at for entry in entries) * 1e9),
        count=len(seconds),
        sum=sum(seconds),
        min=min(seconds),
        max=max(seconds),
        bucket_counts=counts,
        explicit_bounds=BOUNDS,
    )


def _pairs(attributes: Mapping[str, Value]) -> list[KeyValue]:
    return [KeyValue(key=name, value=_value(value)) for name, value in attributes.items()]


def _value(value: Value) -> AnyValue:
    if isinstance(value, str):
        return AnyValue(string_value=value.encode("utf-8", "replace").decode())
    return AnyValue(int_value=value) if isinstance(value, int) else AnyValue(double_value=value)
