"""I3: sinks against real collectors: rsyslog (TCP, TLS, UDP), an OTLP receiver that decodes protobuf, HTTP servers."""

from __future__ import annotations

import base64
import hmac
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import orjson
import pytest
import trustme
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from pydantic import TypeAdapter, ValidationError

from export.following import Clock, Heard, Log, entry, http_server, outcome, turns
from launched import free_port
from limen.adapters.sinks import open_sink
from limen.audit.export import Rejected
from limen.audit.follow_settings import Follower
from limen.core.faults import ConfigFault, DependencyFault

ENTRIES = [entry(outcome(number, ms=number * 100.0), number) for number in range(5)]


def sink(**settings: Any) -> Any:
    return open_sink(TypeAdapter(Follower).validate_python({"name": "siem", "timeout": 3, **settings}), "limen")


@contextmanager
def rsyslog(home: Path, module: str, port: int, extra: str = "") -> Iterator[Path]:
    """A real rsyslogd in the foreground, writing each message's parts to a file."""
    if shutil.which("rsyslogd") is None:
        pytest.skip("rsyslogd is not installed")
    out = home / "received"
    config = f"""
global(workDirectory="{home}" maxMessageSize="64k" {extra})
template(name="parts" type="string" string="%pri%~%app-name%~%msgid%~%structured-data%~%msg%\\n")
{module}
ruleset(name="all") {{ action(type="omfile" file="{out}" template="parts") }}
"""
    (home / "rsyslog.conf").write_text(config)
    command = ["rsyslogd", "-n", "-f", str(home / "rsyslog.conf"), "-i", str(home / "pid")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    try:
        for _ in range(1000):
            if process.poll() is not None:
                raise AssertionError((process.stderr or b"").read())  # type: ignore[union-attr]
            with socket.socket(type=socket.SOCK_STREAM if "tcp" in module else socket.SOCK_DGRAM) as probe:
                if "udp" in module:
                    time.sleep(0.5)
                    break
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        yield out
    finally:
        process.terminate()
        process.wait(10)


def received(out: Path, count: int) -> list[list[str]]:
    """Its lines, once there are so many."""
    lines: list[str] = []
    for _ in range(200):
        lines = [one for one in out.read_text().splitlines() if "limen" in one] if out.exists() else []
        if len(lines) >= count:
            break
        time.sleep(0.05)
    return [one.split("~", 4) for one in lines]


def test_rsyslog_receives_over_tcp(tmp_path: Path) -> None:
    port = free_port()
    module = f'module(load="imtcp") input(type="imtcp" address="127.0.0.1" port="{port}" ruleset="all")'
    with rsyslog(tmp_path, module, port) as out:
        sink(kind="syslog", address=f"127.0.0.1:{port}", transport="tcp", form="cef").send(ENTRIES)
        hostile = entry(outcome(9, name="a\nb<134>1 - - - - - -", detail="x" * 30_000), 9)
        sink(kind="syslog", address=f"127.0.0.1:{port}", transport="tcp", form="record").send([hostile])
        lines = received(out, 6)
    assert [one[:3] for one in lines] == [["110", "limen", "call.outcome"]] * 6
    assert [f'id="{one.id}"' in line[3] for one, line in zip(ENTRIES, lines, strict=False)] == [True] * 5
    assert lines[0][4].startswith("CEF:0|Limen|Limen|")
    assert orjson.loads(lines[5][4])["record"]["name"] == "a\nb<134>1 - - - - - -"


def test_rsyslog_receives_over_tls_and_a_stranger_gets_nothing(tmp_path: Path) -> None:
    port, ca = free_port(), trustme.CA()
    mine = ca.issue_cert("127.0.0.1")
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    mine.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    mine.private_key_pem.write_to_path(tmp_path / "key.pem")
    trustme.CA().cert_pem.write_to_path(tmp_path / "other.pem")
    extra = (
        f'defaultNetstreamDriver="gtls" defaultNetstreamDriverCAFile="{tmp_path}/ca.pem" '
        f'defaultNetstreamDriverCertFile="{tmp_path}/cert.pem" defaultNetstreamDriverKeyFile="{tmp_path}/key.pem"'
    )
    module = (
        'module(load="imtcp" streamDriver.name="gtls" streamDriver.mode="1" streamDriver.authMode="anon") '
        f'input(type="imtcp" address="127.0.0.1" port="{port}" ruleset="all")'
    )
    address = f"127.0.0.1:{port}"
    with rsyslog(tmp_path, module, port, extra) as out:
        sink(kind="syslog", address=address, ca=tmp_path / "ca.pem").send(ENTRIES)
        with pytest.raises(DependencyFault, match="CERTIFICATE_VERIFY_FAILED"):
            sink(kind="syslog", address=address, ca=tmp_path / "other.pem").send(ENTRIES)
        lines = received(out, 5)
    assert len(lines) == 5
    assert lines[4][4].startswith("CEF:0|")


def test_rsyslog_receives_datagrams(tmp_path: Path) -> None:
    port = free_port()
    module = f'module(load="imudp") input(type="imudp" address="127.0.0.1" port="{port}" ruleset="all")'
    udp = {"kind": "syslog", "address": f"127.0.0.1:{port}", "transport": "udp"}
    with rsyslog(tmp_path, module, port) as out:
        sink(**udp).send(ENTRIES)
        with pytest.raises(Rejected):
            sink(**udp, form="record").send([entry(outcome(1, detail="x" * 66_000))])
        assert len(received(out, 5)) == 5


def test_a_receiver_that_dies_before_it_has_read_has_not_got_the_batch() -> None:
    """Unread bytes at the other end become a reset, not an orderly close."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def dies() -> None:
            peer, _ = listener.accept()
            peer.recv(10)
            time.sleep(0.2)
            peer.close()

        thread = threading.Thread(target=dies)
        thread.start()
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(DependencyFault):
            sink(kind="syslog", address=address, transport="tcp").send(ENTRIES)
        thread.join()


def test_a_receiver_that_never_closes_is_not_waited_for_for_ever() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        begun = time.monotonic()
        with pytest.raises(DependencyFault, match="imeout"):
            sink(kind="syslog", address=address, transport="tcp", timeout=0.4).send(ENTRIES)
        assert time.monotonic() - begun < 10
        sink(kind="syslog", address=address, transport="tcp", timeout=0.4, confirm="written").send(ENTRIES)


TOKEN = "Splunk 11111111-2222"


def hec(ack: int) -> Callable[[Heard], tuple[int, bytes]]:
    """The answers of an event collector with acknowledgement; indexers take `ack` questions to be done."""
    asked = [0]

    def answer(heard: Heard) -> tuple[int, bytes]:
        if heard.headers.get("authorization") != TOKEN:
            return 403, b'{"text":"Invalid token","code":4}'
        if heard.path.endswith("/ack"):
            asked[0] += 1
            return 200, orjson.dumps({"acks": {"7": asked[0] > ack}})
        if b'"bad"' in heard.body:
            return 400, b'{"text":"Invalid data format","code":6,"invalid-event-number":0}'
        return 200, b'{"text":"Success","code":0,"ackId":7}'

    return answer


def test_splunk_takes_and_acknowledges() -> None:
    with http_server(hec(2)) as (url, heard):
        splunk = sink(kind="splunk_hec", url=url, token="11111111-2222", acknowledge=True, index="sec")
        splunk.send(ENTRIES)
        with pytest.raises(Rejected):
            splunk.send([entry(outcome(1, detail="bad"))])
        with pytest.raises(DependencyFault, match="403"):
            sink(kind="splunk_hec", url=url, token="wrong").send(ENTRIES)
    assert [one.path.rpartition("/")[2] for one in heard] == ["event", "ack", "ack", "ack", "event", "event"]
    events = [orjson.loads(one) for one in heard[0].body.replace(b'}{"time"', b'}\n{"time"').split(b"\n")]
    assert [one["fields"]["limen_id"] for one in events] == [one.id for one in ENTRIES]
    assert (events[0]["index"], events[0]["sourcetype"], events[0]["event"]["class_uid"]) == ("sec", "limen:ocsf", 6003)
    assert heard[0].headers["x-splunk-request-channel"] == heard[1].headers["x-splunk-request-channel"]


def test_splunk_that_never_acknowledges_has_not_got_it() -> None:
    with http_server(hec(10**6)) as (url, _), pytest.raises(DependencyFault, match="not acknowledged"):
        sink(kind="splunk_hec", url=url, token="11111111-2222", acknowledge=True, timeout=0.5).send(ENTRIES)


def test_a_wrong_index_is_the_operators_mistake_and_puts_no_record_aside() -> None:
    with (
        http_server(lambda heard: (400, b'{"text":"Incorrect index","code":7}')) as (url, _),
        pytest.raises(DependencyFault, match="Incorrect index"),
    ):
        sink(kind="splunk_hec", url=url, token="t").send(ENTRIES)


def test_a_webhook_is_signed_and_its_doubles_carry_the_same_ids(tmp_path: Path) -> None:
    """A sink that takes everything and answers too late gets it again under the same ids."""
    log, clock, secret = Log(tmp_path), Clock(), "whsec_" + base64.b64encode(b"s" * 32).decode()
    log.fill(8)
    late = [2]

    def answer(heard: Heard) -> tuple[int, bytes] | None:
        late[0] -= 1
        return None if late[0] >= 0 else (200, b"")

    with http_server(answer) as (url, heard):
        hook = sink(kind="webhook", url=f"{url}/in", secret=secret, timeout=0.3)
        turns(log.lane(hook, clock), clock)
    assert len(heard) == 3
    assert len({one.headers["webhook-id"] for one in heard}) == 1
    last = heard[-1]
    signed = f"{last.headers['webhook-id']}.{last.headers['webhook-timestamp']}.".encode() + last.body
    mac = base64.b64encode(hmac.digest(b"s" * 32, signed, sha256)).decode()
    assert last.headers["webhook-signature"] == f"v1,{mac}"
    assert [one["event"]["metadata"]["sequence"] for one in orjson.loads(last.body)["data"]["events"]] == list(range(8))


@pytest.mark.parametrize(
    ("status", "fault"),
    [
        *[(one, DependencyFault) for one in (500, 503, 429, 404, 302)],
        *[(one, Rejected) for one in (400, 413, 422)],
    ],
)
def test_which_answers_are_about_content(status: int, fault: type[Exception]) -> None:
    with http_server(lambda heard: (status, b"no\r\n\x00")) as (url, heard), pytest.raises(fault):
        sink(kind="webhook", url=url, secret="s" * 24).send(ENTRIES)
    assert len(heard) == 1  # a redirect is not followed


def test_a_slow_loris_is_cut_off_in_time() -> None:
    """One byte at a time: all of an exchange has one limit."""
    stop = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def drip() -> None:
            peer, _ = listener.accept()
            with peer:
                for byte in b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n" * 50:
                    if stop.wait(0.05):
                        return
                    try:
                        peer.send(bytes([byte]))
                    except OSError:
                        return

        thread = threading.Thread(target=drip)
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        with pytest.raises(DependencyFault, match="no answer within"):
            sink(kind="webhook", url=url, secret="s" * 24, timeout=0.5).send(ENTRIES)
        stop.set()
        thread.join()


def test_opentelemetry_gets_spans_logs_and_measurements() -> None:
    with http_server(lambda heard: (200, b"")) as (url, heard):
        sink(
            kind="otlp", url=url, signals=["traces", "metrics", "logs"], headers={"api-key": "k"}
        ).send([*ENTRIES, entry({"t": "start", "ts": 9.0}, 6)])  # fmt: skip
    by = {one.path: one for one in heard}
    assert by["/v1/traces"].headers["api-key"] == "k"
    traces = ExportTraceServiceRequest.FromString(by["/v1/traces"].body).resource_spans[0]
    spans = traces.scope_spans[0].spans
    assert {one.key: one.value.string_value for one in traces.resource.attributes}["service.name"] == "limen"
    assert [one.name for one in spans] == ["tools/call read_file"] * 5
    assert spans[0].trace_id.hex() == "4bf92f3577b34da6a3ce929d0e0e4736"
    assert spans[0].parent_span_id.hex() == "00f067aa0ba902b7"
    assert len({one.span_id for one in spans}) == 5
    assert spans[3].end_time_unix_nano - spans[3].start_time_unix_nano == 300_000_000
    histogram = (
        ExportMetricsServiceRequest.FromString(by["/v1/metrics"].body).resource_metrics[0].scope_metrics[0].metrics[0]
    )
    point = histogram.histogram.data_points[0]
    assert (histogram.name, point.count, sum(point.bucket_counts)) == ("mcp.server.operation.duration", 5, 5)
    assert point.sum == pytest.approx(1.0)
    logs = ExportLogsServiceRequest.FromString(by["/v1/logs"].body).resource_logs[0].scope_logs[0].log_records
    assert [one.event_name for one in logs] == ["limen.call.outcome"] * 5 + ["limen.start"]
    assert logs[0].span_id == spans[0].span_id
    assert any(one.key == "limen.leaf" and one.value.string_value == ENTRIES[0].leaf for one in logs[0].attributes)


PAGE = b"<html>Sign in to the network</html>"
PARTIAL = ExportTraceServiceResponse()
PARTIAL.partial_success.rejected_spans = 2


@pytest.mark.parametrize(
    ("body", "kind", "wrong"),
    [
        (b"", "application/x-protobuf", None),
        (b"{}", "application/json", None),
        (PAGE, "text/html", DependencyFault),
        (PAGE, "application/x-protobuf", DependencyFault),
        (PAGE, "application/json", DependencyFault),
        (PARTIAL.SerializeToString(), "application/x-protobuf", Rejected),
        (b'{"partialSuccess":{"rejectedSpans":"2","errorMessage":"too old"}}', "application/json", Rejected),
    ],
)
def test_opentelemetry_an_answer_of_200_that_is_none_has_not_taken_it(
    body: bytes, kind: str, wrong: type[Exception] | None
) -> None:
    """A page of a proxy or a portal would otherwise swallow every event."""
    with http_server(lambda heard: (200, body, kind)) as (url, _):
        otlp = sink(kind="otlp", url=url, signals=["traces"])
        if wrong is None:
            otlp.send(ENTRIES)
            return
        with pytest.raises(wrong):
            otlp.send(ENTRIES)


@pytest.mark.parametrize("body", [PAGE, b'{"text":"Server is busy","code":9}', b'{"code":"9"}', b"[]"])
def test_splunk_that_says_200_and_an_error_has_not_taken_it(body: bytes) -> None:
    with http_server(lambda heard: (200, body)) as (url, _), pytest.raises(DependencyFault, match=r"but|JSON"):
        sink(kind="splunk_hec", url=url, token="t").send(ENTRIES)


@pytest.mark.parametrize("status", [200, 202, 302])
def test_azure_monitor_answers_204_and_nothing_else(status: int) -> None:
    def answer(heard: Heard) -> tuple[int, bytes]:
        return (status, PAGE) if "/dataCollectionRules/" in heard.path else azure(heard)

    with http_server(answer) as (url, _), pytest.raises(DependencyFault, match=str(status)):
        settings = {"kind": "azure_monitor", "url": url, "authority": url, "tenant": "contoso", "client_id": "c"}
        sink(**settings, client_secret="s", rule="dcr-1", stream="Custom-Limen_CL").send(ENTRIES)


@pytest.mark.parametrize("kind", ["webhook", "splunk_hec", "otlp"])
def test_an_answer_without_end_is_cut_off(kind: str) -> None:
    """I3: a gigabyte, or a byte at a time for ever: neither memory nor a thread is spent on it."""
    settings = {"webhook": {"secret": "s" * 24}, "splunk_hec": {"token": "t"}, "otlp": {}}[kind]
    with socket.create_server(("127.0.0.1", 0)) as server:
        stop = threading.Event()

        def flood() -> None:
            with server.accept()[0] as connection:
                connection.recv(4096)
                try:
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1073741824\r\n\r\n")
                    while not stop.is_set():
                        connection.sendall(b"x" * 65_536)
                except OSError:
                    return  # it hung up

        thread = threading.Thread(target=flood)
        thread.start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(DependencyFault):
            sink(kind=kind, url=url, timeout=30, **settings).send(ENTRIES)
        thread.join(10)
        ended = not thread.is_alive()
        stop.set()
        thread.join()
    assert ended  # by us, long before the timeout


def azure(heard: Heard) -> tuple[int, bytes]:
    """The token endpoint of Entra ID and the Logs Ingestion interface, as far as their contracts say."""
    if heard.path == "/contoso/oauth2/v2.0/token":
        good = b"grant_type=client_credentials" in heard.body and b"scope=https%3A%2F%2Fmonitor.azure.com" in heard.body
        return (200, b'{"access_token":"tok","expires_in":3600}') if good else (400, b"{}")
    if heard.headers.get("authorization") != "Bearer tok":
        return 401, b"{}"
    place = "/dataCollectionRules/dcr-1/streams/Custom-Limen_CL?api-version=2023-01-01"
    rows = orjson.loads(heard.body)
    if heard.path != place or not isinstance(rows, list) or len(heard.body) > 1 << 20:
        return 400, b'{"error":{"code":"InvalidStream"}}'
    return 204, b""


def test_azure_monitor_takes_rows_of_a_stream() -> None:
    with http_server(azure) as (url, heard):
        settings = {"kind": "azure_monitor", "url": url, "authority": url, "tenant": "contoso", "client_id": "c"}
        monitor = sink(**settings, client_secret="s", rule="dcr-1", stream="Custom-Limen_CL")
        monitor.send(ENTRIES)
        monitor.send([entry(outcome(1, detail="x" * 60_000), number) for number in range(12)])
    rows = orjson.loads(heard[1].body)
    assert [one["EventId"] for one in rows] == [one.id for one in ENTRIES]
    assert rows[0]["TimeGenerated"].startswith("2026-")
    assert len(heard) == 4  # one token, one body, and twelve large rows in two bodies
    assert sum(len(orjson.loads(one.body)) for one in heard[2:]) == 12


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "webhook", "url": "http://siem.example/", "secret": "s" * 24},
        {"kind": "webhook", "url": "https://u:p@siem.example/", "secret": "s" * 24},
        {"kind": "webhook", "url": "https://siem.example/", "secret": "short"},
        {"kind": "syslog", "address": "siem.example:514", "transport": "tcp"},
        {"kind": "syslog", "address": "siem.example"},
        {"kind": "splunk_hec", "url": "https://siem.example"},
        {"kind": "pigeon"},
    ],
)
def test_what_would_leak_or_lead_nowhere_is_no_configuration(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        sink(**wrong)


def test_a_certificate_that_is_none_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("nothing")
    with pytest.raises(ConfigFault):
        sink(kind="webhook", url="https://siem.example/", secret="s" * 24, ca=tmp_path / "ca.pem")
