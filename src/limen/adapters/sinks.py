"""Which sink a follower's kind is. OpenTelemetry's messages are an extra, imported when a configuration names one."""

from __future__ import annotations

import ssl
from pathlib import Path

from limen.adapters.sink_azure import AzureSink
from limen.adapters.sink_file import FileSink
from limen.adapters.sink_http import Poster, SplunkSink, WebhookSink
from limen.adapters.sink_syslog import SyslogSink
from limen.audit.export import Sink
from limen.audit.follow_settings import (
    AzureFollower,
    FileFollower,
    FollowerSettings,
    OtlpFollower,
    SplunkFollower,
    SyslogFollower,
    WebhookFollower,
)
from limen.core.faults import ConfigFault


def open_sink(settings: FollowerSettings, log: str) -> Sink:
    """Nothing is connected yet. Raises ConfigFault: a certificate that is none, a library that is not installed."""
    if isinstance(settings, FileFollower):
        return FileSink(settings.path, settings.form, settings.rotate, settings.keep)
    if isinstance(settings, SyslogFollower):
        tls = trusting(settings.ca, settings.certificate) if settings.transport == "tls" else None
        return SyslogSink(settings, tls)
    if isinstance(settings, SplunkFollower):
        return SplunkSink(settings, Poster(settings.timeout, trusting(settings.ca)))
    if isinstance(settings, WebhookFollower):
        return WebhookSink(settings, Poster(settings.timeout, trusting(settings.ca)))
    if isinstance(settings, AzureFollower):
        return AzureSink(settings, Poster(settings.timeout, trusting(settings.ca)))
    if isinstance(settings, OtlpFollower):
        try:
            from limen.adapters.sink_otlp import OtlpSink
        except ModuleNotFoundError as error:
            raise ConfigFault(f"needs {error.name}: pip install 'limen[otel]'", "audit.followers") from None
        return OtlpSink(settings, Poster(settings.timeout, trusting(settings.ca)), log)
    raise ConfigFault(f"unknown kind of {settings.name}", "audit.followers")


def trusting(ca: Path | None, certificate: Path | None = None) -> ssl.SSLContext:
    """A context that verifies, by these authorities or the system's. Raises ConfigFault."""
    try:
        context = ssl.create_default_context(cafile=str(ca) if ca is not None else None)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if certificate is not None:
            context.load_cert_chain(str(certificate))
    except (OSError, ssl.SSLError) as error:
        raise ConfigFault(f"{ca or certificate}: not usable: {error}", "audit.followers") from None
    return context
