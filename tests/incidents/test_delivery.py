"""Delivery to real receivers (I8): signed, of the documented shape, nothing lost while one is down, none injected."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import os
import re
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from incidents.alert_kit import Desk, only, refusal, rule
from incidents.receivers import Receiver, mail_server, receiver
from limen.adapters.hooks import Hooks
from limen.adapters.smtp import Smtp
from limen.alerting import open_mailer
from limen.core.faults import DependencyFault
from limen.incidents.alert_settings import AlertSettings, MailRoute
from limen.incidents.delivery import Delivery, way
from limen.incidents.formats import facts, mail, pagerduty, slack, teams, title, webhook
from limen.incidents.outbox import Entry, entries, put

SECRET = "a key of at least 24 characters"
HOSTILE = "<!channel> <@U123> *bold* @everyone [x](https://evil.example) <b>x</b>\r\nBcc: e@evil.example\u202e"


@pytest.fixture
def hook() -> Iterator[Receiver]:
    with receiver() as server:
        yield server


def route(kind: str, **more: Any) -> dict[str, Any]:
    return {"kind": kind, "name": kind, "severity": "low", **more}


class Delivering(Desk):
    """A desk whose outbox is delivered, under its own clock."""

    def deliver(self, holder: str = "one") -> int:
        ways = [way(one, Hooks(timeout=5), open_mailer, "https://mcp.example.com") for one in self.settings.routes]
        made = getattr(self, "_made", None) or Delivery(
            self.table, ways, holder, lambda kind, told: self.recorded.append((kind, dict(told))),
            self.said.append, give_up=self.settings.give_up, now=lambda: self.now,
        )  # fmt: skip
        self._made = made
        return asyncio.run(made.turn())

    said: list[str]

    def __init__(self, directory: Path, *routes: dict[str, Any], **more: Any) -> None:
        self.said = []
        super().__init__(
            directory, only(rule(group=["subject"], title="{subject} did it"), routes=list(routes), **more)
        )


def alert(**more: Any) -> dict[str, Any]:
    return {"id": "5e884898da280471", "key": "k", "rule": "ours", "severity": "critical", "title": "It happened",
            "about": [["subject", "alice"]], "count": 3, "first": 2e9, "last": 2e9, "events": ["limen:7"],
            "notices": 1, **more}  # fmt: skip


def entry(act: Any = "trigger", **more: Any) -> Entry:
    return Entry("d1", "r", act, alert(**more), 2e9, 2e9)


def test_webhook_is_signed_as_standard_webhooks_says(tmp_path: Path, hook: Receiver) -> None:
    desk = Delivering(tmp_path, route("webhook", url=hook.url, secret=SECRET))
    desk.say(**refusal("policy.denied"))
    desk.settle()
    assert desk.deliver() == 1
    ((_, headers, body),) = hook.got
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + hook.bodies[0]
    proof = base64.b64encode(hmac.digest(SECRET.encode(), signed, hashlib.sha256)).decode()
    assert headers["webhook-signature"] == f"v1,{proof}"
    assert abs(int(headers["webhook-timestamp"]) - time.time()) < 60
    assert (body["type"], body["data"]["rule"], body["data"]["about"]) == (
        "alert.trigger",
        "ours",
        {"subject": "alice"},
    )
    assert body["id"] == headers["webhook-id"]
    assert desk.waiting() == []
    assert desk.deliver() == 0


def test_a_sink_that_is_down_for_an_hour_loses_nothing_and_holds_up_no_other(tmp_path: Path, hook: Receiver) -> None:
    """Virtual clock: both have all of it in the end, each once, and the one that was up had it at once."""
    with receiver() as down:
        desk = Delivering(
            tmp_path, route("webhook", url=hook.url, secret=SECRET, per_minute=600),
            route("slack", url=down.url, per_minute=600),
        )  # fmt: skip
        down.status = 503
        for number in range(12):
            desk.say(**refusal("policy.denied", sub=f"user{number}"))
            desk.settle()
            desk.deliver()
            desk.now += 300
        assert (len(hook.got), len(down.got), len(desk.waiting())) == (12, 0, 12)
        assert [text for text in desk.said if "503" in text] == ["alerts by slack: alerts: 127.0.0.1: status 503"]
        down.status = 200
        for _ in range(4):
            desk.now += 900
            desk.deliver()
        assert (len(down.got), desk.waiting()) == (12, [])
        assert len({json.dumps(body) for _, _, body in down.got}) == 12
        assert desk.said[-1] == "alerts by slack: works again"


def test_what_is_refused_for_good_is_set_aside_told_and_can_be_sent_again(tmp_path: Path, hook: Receiver) -> None:
    desk = Delivering(tmp_path, route("slack", url=hook.url))
    hook.status = 410
    desk.say(**refusal("policy.denied"))
    desk.settle()
    for _ in range(6):
        desk.deliver()
        desk.now += 1000
    (dead,) = entries(desk.table, dead=True)
    kind, told = desk.recorded[-1]
    assert (kind, told["act"], told["route"]) == ("delivery", "dead", "slack")
    assert "secret-part" not in json.dumps(desk.recorded) + " ".join(desk.said) + dead.error


def test_a_receiver_that_asks_for_time_gets_it(tmp_path: Path, hook: Receiver) -> None:
    desk = Delivering(tmp_path, route("slack", url=hook.url))
    hook.status, hook.headers = 429, {"Retry-After": "1800"}
    desk.say(**refusal("policy.denied"))
    desk.settle()
    desk.deliver()
    assert desk.waiting()[0].due == desk.now + 1800


def test_more_than_a_route_takes_in_a_minute_waits(tmp_path: Path, hook: Receiver) -> None:
    desk = Delivering(tmp_path, route("webhook", url=hook.url, secret=SECRET, per_minute=2))
    for number in range(5):
        desk.say(**refusal("policy.denied", sub=f"user{number}"))
    desk.settle()
    assert [desk.deliver(), desk.deliver()] == [2, 0]
    desk.now += 61
    assert desk.deliver() == 2
    desk.now += 61
    assert (desk.deliver(), len(hook.got), desk.waiting()) == (1, 5, [])


def test_two_replicas_deliver_once(tmp_path: Path, hook: Receiver) -> None:
    one = Delivering(tmp_path, route("webhook", url=hook.url, secret=SECRET))
    two = Delivering(tmp_path, route("webhook", url=hook.url, secret=SECRET))
    one.say(**refusal("policy.denied"))
    one.settle()
    two.now = one.now
    assert sorted((one.deliver("one"), two.deliver("two"))) == [0, 1]
    assert len(hook.got) == 1


def test_a_route_that_is_gone_ends_in_the_dead_letters(tmp_path: Path) -> None:
    desk = Delivering(tmp_path)
    put(desk.table, "gone", "trigger", alert(), desk.now)
    for _ in range(6):
        desk.deliver()
        desk.now += 1000
    assert "no route gone" in entries(desk.table, dead=True)[0].error


def test_killed_between_sending_and_noting_it_arrives_twice_under_one_id(tmp_path: Path, hook: Receiver) -> None:
    """kill -9 of a real process that delivers: the alert is there before, and arrives at least once after."""
    desk = Delivering(tmp_path, route("webhook", url=hook.url, secret=SECRET))
    desk.say(**refusal("policy.denied"))
    desk.settle()
    program = (
        "import asyncio, os, signal, sys\n"
        "import limen.incidents.delivery as delivery\n"
        "from incidents.test_delivery import Delivering, SECRET, route\n"
        "from pathlib import Path\n"
        "delivery.delivered = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "desk = Delivering(Path(sys.argv[1]), route('webhook', url=sys.argv[2], secret=SECRET))\n"
        "desk.now += 1\n"
        "desk.deliver('killed')\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path), hook.url], env=environment, timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert len(hook.got) == 1
    assert len(desk.waiting()) == 1
    desk.now += 60  # the lease of the one that is gone has ended
    assert desk.deliver() == 1
    assert len({headers["webhook-id"] for _, headers, _ in hook.got}) == 1
    assert desk.waiting() == []


@pytest.mark.parametrize("status", [301, 307, 400, 404])
def test_redirects_are_not_followed_and_faults_name_no_address(hook: Receiver, status: int) -> None:
    hook.status, hook.headers = status, {"Location": "http://169.254.169.254/latest"}
    with pytest.raises(DependencyFault) as fault:
        asyncio.run(Hooks().post(hook.url, b"{}", {}))
    assert not fault.value.retryable
    assert "secret-part" not in str(fault.value)


# formats


def test_slack_blocks_are_of_the_documented_shape_and_nothing_in_them_acts() -> None:
    """Block Kit: header.text plain_text <= 150, section.text <= 3000; `text` is mrkdwn and so it is escaped."""
    body = json.loads(slack(entry(title=HOSTILE, about=[["subject", HOSTILE]])))
    header, section = body["blocks"]
    assert (header["type"], header["text"]["type"], section["type"]) == ("header", "plain_text", "section")
    assert 0 < len(header["text"]["text"]) <= 150
    assert 0 < len(section["text"]["text"]) <= 3000
    assert {block["text"]["type"] for block in body["blocks"]} == {"plain_text"}  # which knows no mentions, no links
    assert not re.search(r"<[!@#a-z]|(?<!\u200b)@(?!\u200b)", body["text"])
    assert body["parse"] == "none"
    assert body["link_names"] is False


def test_teams_card_is_of_the_documented_shape_and_nothing_in_it_acts() -> None:
    """Adaptive Card 1.4 in the envelope of the workflow; only TextRuns, which have no Markdown, and no msteams part."""
    body = json.loads(teams(entry(title=HOSTILE, about=[["subject", HOSTILE]])))
    (attachment,) = body["attachments"]
    card = attachment["content"]
    assert body["type"] == "message"
    assert attachment["contentType"] == "application/vnd.microsoft.card.adaptive"
    assert (card["type"], card["version"]) == ("AdaptiveCard", "1.4")
    assert "msteams" not in card  # entities are what makes <at> a mention
    for block in card["body"]:
        assert block["type"] == "RichTextBlock"
        assert all(run["type"] == "TextRun" and run["text"].isprintable() for run in block["inlines"])
        assert all(
            run.get("color", "Default") in ("Default", "Accent", "Warning", "Attention") for run in block["inlines"]
        )


@pytest.mark.parametrize(
    ("act", "action"), [("trigger", "trigger"), ("acknowledge", "acknowledge"), ("resolve", "resolve")]
)
def test_pagerduty_events_are_of_the_documented_shape(act: Any, action: str) -> None:
    """Events API v2: one dedup_key for one alert; summary <= 1024; severity of four."""
    body = json.loads(pagerduty(entry(act, title="x" * 5000), "K" * 32, "https://mcp.example.com"))
    assert (body["routing_key"], body["event_action"], body["dedup_key"]) == (
        "K" * 32,
        action,
        "limen-5e884898da280471",
    )
    assert ("payload" in body) is (act == "trigger")
    if act == "trigger":
        payload = body["payload"]
        assert len(payload["summary"]) <= 1024
        assert payload["severity"] == "critical"
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", payload["timestamp"])
        assert {"summary", "source", "severity"} <= set(payload)


def test_a_title_cannot_add_headers_to_a_mail() -> None:
    """CRLF injection: one Bcc, one Subject, one body part."""
    raw = mail(entry(title=HOSTILE, about=[["subject", HOSTILE]]), "limen@example.com", ("soc@example.com",))
    head, _, body = raw.partition(b"\r\n\r\n")
    assert not re.search(rb"(?im)^bcc:", head)
    assert len(re.findall(rb"(?im)^subject:", head)) == 1
    assert b"text/plain" in head
    assert b"\r\nBcc" not in body
    for wrong in ("a@b.c\r\nBcc: e@evil.example", "a@b.c, e@evil.example", "<e@evil.example>"):
        with pytest.raises(Exception, match=r"."):
            MailRoute.model_validate(route("smtp", host="127.0.0.1", sender=wrong, recipients=["soc@example.com"]))
        with pytest.raises(Exception, match=r"."):
            mail(entry(), wrong, ("soc@example.com",))


def test_titles_are_bounded() -> None:
    assert len(title(entry(title="x" * 10_000))) <= 250
    assert len(title(entry(title="a.bc" * 10_000))) <= 250


@pytest.mark.parametrize("bait", ["https://evil.example/reset", "evil.example/reset", "www.evil.example", "//evil.co"])
def test_an_address_somebody_chose_as_a_name_is_no_link_in_a_warning(bait: str) -> None:
    """Mail programs make links of plain text, and a warning of the gateway's own is believed."""
    one = entry(title=f"A token of {bait} is used by somebody else", about=[["subject", bait]])
    shown = [mail(one, "limen@example.com", ("soc@example.com",)), slack(one), teams(one), pagerduty(one, "k", "us")]
    for text in shown:
        assert b"evil.example" not in text and b"evil.co" not in text and b"https://evil" not in text
    assert "evil[.]" in title(one)
    said = facts(entry(title="Answers of mail/send v1.2", about=[["server", "mail/send v1.2 at 198.51.100.7"]]))
    assert ("server", "mail/send v1.2 at 198.51.100.7") in said
    assert json.loads(webhook(one))["data"]["about"]["subject"] == bait  # programs compare it


# mail


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def _box(port: int, tls: str, authority: trustme.CA, **more: Any) -> Smtp:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    login = ("limen", "pass word") if tls == "starttls" else None
    return Smtp(more.get("host", "localhost"), port, tls, more.get("login", login), timeout=5, context=context)


@pytest.mark.parametrize("tls", ["starttls", "implicit", "none"])
def test_mail_arrives(tls: str, authority: trustme.CA) -> None:
    with mail_server(tls, authority) as (box, port):
        raw = mail(entry(), "limen@example.com", ("soc@example.com", "on-call@example.com"))
        recipients = ("soc@example.com", "on-call@example.com")
        asyncio.run(_box(port, tls, authority).send("limen@example.com", recipients, raw))
    (message,) = box.mails
    assert message["Subject"] == "[critical] It happened"
    assert "subject: alice" in message.get_content()
    assert message["Auto-Submitted"] == "auto-generated"
    assert box.to == ["soc@example.com", "on-call@example.com"]


def test_mail_is_not_sent_where_tls_is_taken_away_or_somebody_elses(authority: trustme.CA) -> None:
    """A man in the middle strips STARTTLS, shows another certificate, or one for another name: nothing is sent."""
    strange = trustme.CA()
    cases = [("none", "starttls", authority, "localhost"), ("implicit", "implicit", strange, "localhost"),
             ("implicit", "implicit", authority, "other.example")]  # fmt: skip
    for served, wanted, issuer, name in cases:
        with mail_server(served, issuer, name) as (box, port), pytest.raises(DependencyFault):
            asyncio.run(_box(port, wanted, authority, login=None).send("a@example.com", ["b@example.com"], b"x"))
        assert not box.raw


def test_mail_that_is_refused_for_good_is_told_from_what_is_refused_for_now(authority: trustme.CA) -> None:
    for answer, lasting in (("550 no such user", True), ("451 try later", False)):
        with mail_server("none", authority) as (box, port):
            box.refuse = answer
            with pytest.raises(DependencyFault) as fault:
                asyncio.run(_box(port, "none", authority).send("a@example.com", ["b@example.com"], b"x"))
        assert fault.value.retryable is not lasting
    with pytest.raises(DependencyFault):
        asyncio.run(_box(1, "none", authority).send("a@example.com", ["b@example.com"], b"x"))
    with mail_server("starttls", authority) as (box, port), pytest.raises(DependencyFault) as fault:
        wrong = _box(port, "starttls", authority, login=("limen", "wrong"))
        asyncio.run(wrong.send("a@example.com", ["b@example.com"], b"x"))
    assert not box.raw


@pytest.mark.parametrize(
    "wrong",
    [
        {"url": "http://hooks.example/x"}, {"url": "ftp://127.0.0.1/x"}, {"url": "https:///x"},
        {"secret": "short"}, {"kind": "carrier pigeon"}, {"per_minute": 0}, {"rules": []},
    ],
    ids=str,
)  # fmt: skip
def test_a_route_that_is_not_safe_is_refused(wrong: dict[str, Any]) -> None:
    given = {**route("webhook", url="https://hooks.example/x", secret=SECRET), **wrong}
    with pytest.raises(ValueError) as refused:
        AlertSettings.model_validate({"routes": [given]})
    assert SECRET not in str(refused.value)


def test_mail_without_tls_stays_on_this_machine() -> None:
    given = route("smtp", host="mail.example.com", tls="none", sender="a@example.com", recipients=["b@example.com"])
    with pytest.raises(ValueError):
        AlertSettings.model_validate({"routes": [given]})
