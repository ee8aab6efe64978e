"""Nothing altered, moved, put back or signed by another is served, and no field of any record changes unseen."""

import copy
import json

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from catalog.catalogue import ECHO, announce, approve_all, offered, tool
from contracts.memory import MemoryTable
from limen.adapters.keys import FileSigner
from limen.audit.note import VerifierKey
from limen.audit.note import _check_signatures as check_note
from limen.audit.note import _split_note as split_note
from limen.catalog.attest import Decision, Notary, Unattested, parse_note, text_of, verify_note
from limen.catalog.registry import Governance, NothingPending, Registry
from limen.core.announce import Announcement

SIGNER = FileSigner("limen", Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
OTHER = FileSigner("limen", Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33))))
DECISION = Decision(
    "approve", "s", "tool", "echo", "d" * 64, "ann", 5.0, "read – it", "cli", "read", True, 9.0, ("ann",), "d" * 64
)


def signed(table=None, signer=SIGNER, **rest):
    return Registry(table if table is not None else MemoryTable(), signer=signer, **rest)


@pytest.fixture
def table():
    """Two tools; one with a rejected version, a rollback and three decisions, all that is stored is authentic."""
    made = MemoryTable()
    registry = signed(made)
    registry.observe(announce(ECHO, tool(name="other"), tool(name="a b"), findings=("shows another list",)))
    approve_all(registry)
    registry.observe(announce(tool(description="v2"), tool(name="other"), tool(name="a b")))
    registry.approve("s", "tool", "echo", "root", "looks fine")
    registry.rollback("s", "tool", "echo", "root", "v2 misbehaves")
    registry.observe(announce(tool(description="v3"), tool(name="other"), tool(name="a b")))
    registry.reject("s", "tool", "echo", "root", "no")
    assert registry.verify() == []
    return made


def names(catalog):
    return [one.name for one in catalog.approved()]


# the note


def test_a_decision_is_a_note_others_can_check():
    note = Notary(SIGNER).sign(DECISION)
    assert Notary(SIGNER).open(note) == DECISION
    assert verify_note(note, "limen", SIGNER.public_key) == DECISION
    text, lines = split_note(note.encode())
    check_note(text, lines, VerifierKey("limen", SIGNER.public_key))
    assert Notary(None).open(text_of(DECISION)) == DECISION


@pytest.mark.parametrize("field", list(json.loads(text_of(DECISION).split("\n")[1])))
def test_no_member_of_a_decision_changes_unseen(field):
    note = Notary(SIGNER).sign(DECISION)
    header, line, *rest = note.split("\n")
    data = json.loads(line)
    old = data[field]
    data[field] = not old if old is True else old + 1 if type(old) in (int, float) else [*old] * 2 if old else ["x"]
    if type(old) is str:
        data[field] = {"approve": "rollback"}.get(old, old + "x")
    forged = "\n".join([header, json.dumps(data, separators=(",", ":"), ensure_ascii=False, sort_keys=True), *rest])
    with pytest.raises(Unattested):
        Notary(SIGNER).open(forged)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda note: note.replace("limen.catalog/decision/1", "limen.catalog/decision/2"),
        lambda note: note.replace("— limen", "— another"),
        lambda note: note[: note.index("\n\n") + 1],
        lambda note: note[:-6] + "AAA=\n",
        lambda note: note + note[note.index("—") :],
        lambda note: note.replace("\n\n—", "\nmore\n\n—"),
        lambda note: note.replace('{"act"', '{ "act"'),
        lambda note: Notary(OTHER).sign(DECISION),
        lambda note: "",
        lambda note: "limen.catalog/decision/1\n[]\n",
    ],
)
def test_what_is_no_decision_of_ours_is_refused(spoil):
    with pytest.raises(Unattested):
        Notary(SIGNER).open(spoil(Notary(SIGNER).sign(DECISION)))


def test_types_are_exact():
    for member, value in [
        ("at", True),
        ("durable", 1),
        ("number", 1.0),
        ("approvers", [1]),
        ("by", None),
        ("act", "x"),
    ]:
        data = json.loads(text_of(DECISION).split("\n")[1]) | {member: value}
        text = json.dumps(data, separators=(",", ":"), ensure_ascii=False, sort_keys=True)
        with pytest.raises(Unattested):
            parse_note(f"limen.catalog/decision/1\n{text}\n")


def test_a_seal_holds_for_one_row_under_one_key():
    notary = Notary(SIGNER)
    sealed = notary.seal("place", b"value")
    assert notary.unseal("place", sealed) == Notary(None).unseal("place", sealed) == b"value"
    for place, raw, by in [
        ("other", sealed, notary),
        ("place", sealed[:-1] + b"X", notary),
        ("place", b"value", notary),
        ("place", sealed[:10], notary),
        ("place", b"", notary),
        ("place", sealed, Notary(OTHER)),
    ]:
        with pytest.raises(Unattested):
            by.unseal(place, raw)


# what is stored


def test_what_is_authentic_is_served_and_stays_so(table):
    made = signed(table)
    assert sorted(names(made.snapshot())) == ["echo", "other"]
    assert not [row for row in made.history() if row.event == "tampered"]
    assert made.snapshot().find("s", "tool", "echo").read() == ECHO


def flip(raw):
    return raw[:-2] + bytes([raw[-2] ^ 1]) + raw[-1:]


def strip(raw):
    return raw[33:]


@pytest.mark.parametrize("change", [flip, strip, lambda raw: b"", lambda raw: b"\x01" * 40, None])
def test_tampering_with_any_stored_row_is_noticed_and_never_serves_more(table, change):
    honest = {one.name: one.definition for one in signed(table).snapshot().approved()}
    for place, (raw, _) in list(table._rows.items()):
        damaged = copy.deepcopy(table)
        if change is None:
            others = [key for key in table._rows if key.split("\x1f")[0] == place.split("\x1f")[0] and key != place]
            damaged.put(place, table._rows[others[0] if others else "sequence"][0])
            if place == "sequence":
                continue
        else:
            damaged.put(place, change(raw))
        made = signed(damaged)
        served = {one.name: one.definition for one in made.snapshot().approved()}
        assert served.items() <= honest.items(), place
        assert made.verify(), place
        made.entries(), made.held("s"), made.findings("s"), list(made.history())
        subject = place.split("\x1f")
        if subject[0] in ("entry", "decision") and subject[2] == "tool":
            shown = {one.name: one for one in offered(made)}[subject[3]]
            assert subject[3] not in served, place
            assert "not served" in shown.held, place
            assert [row for row in made.history() if row.event == "tampered"], place
        made.observe(announce(ECHO, tool(name="other"), tool(name="a b")))
        assert {one.name: one.definition for one in made.snapshot().approved()}.items() <= honest.items()


def test_a_deleted_row_serves_nothing_more(table):
    honest = {one.name: one.definition for one in signed(table).snapshot().approved()}
    newest = max(place for place in table._rows if place.startswith("decision\x1fs\x1ftool\x1fecho"))
    for place in list(table._rows):
        damaged = copy.deepcopy(table)
        damaged.swap(place, damaged.get(place), None)
        made = signed(damaged)
        served = {one.name: one.definition for one in made.snapshot().approved()}
        assert served.items() <= honest.items(), place
        if place == newest:
            assert served == honest, "the record carries its newest decision"
        elif place.startswith(("version", "mark", "decision\x1fs\x1ftool\x1fecho")):
            assert made.verify(), place


def test_deleting_the_record_of_a_decided_name_is_noticed(table):
    place = "entry\x1fs\x1ftool\x1fecho"
    table.swap(place, table.get(place), None)
    made = signed(table)
    assert names(made.snapshot()) == ["other"]
    assert "deleted" in {entry.name: entry for entry in offered(made)}["echo"].held
    running = signed(table)
    running.snapshot()
    gone = "entry\x1fs\x1ftool\x1fother"
    raw = table.get(gone)
    table.swap(gone, raw, None)
    assert names(running.snapshot()) == [], "and while we are running"
    assert {entry.state for entry in offered(running)} == {"held"}
    table.put(gone, raw)
    assert names(running.snapshot()) == ["other"]
    made.observe(announce(ECHO, tool(name="other")))
    assert names(made.snapshot()) == ["other"], "it starts over and waits"
    made.approve("s", "tool", "echo", "root", "read it again")
    assert sorted(names(made.snapshot())) == sorted(names(signed(table).snapshot())) == ["echo", "other"]


def test_an_approval_replayed_for_another_name_or_server_is_not_served():
    table = MemoryTable()
    made = signed(table)
    made.observe(announce(ECHO, tool(name="other")))
    made.observe(announce(ECHO, server="s2"))
    made.approve("s", "tool", "echo", "root", "read it")
    rows = {key: value for key, (value, _) in table._rows.items() if key.startswith(("entry\x1fs\x1ftool\x1fecho",))}
    (raw,) = rows.values()
    table.put("entry\x1fs\x1ftool\x1fother", raw)
    table.put("entry\x1fs2\x1ftool\x1fecho", raw)
    catalog = signed(table).snapshot()
    assert [(one.server, one.name) for one in catalog.approved()] == [("s", "echo")]
    # Even who could write seals cannot make one approval count for another name.
    seals = Notary(SIGNER)
    value = seals.unseal("entry\x1fs\x1ftool\x1fecho", raw)
    for place in ("entry\x1fs\x1ftool\x1fother", "entry\x1fs2\x1ftool\x1fecho"):
        table.put(place, seals.seal(place, value))
    catalog = signed(table).snapshot()
    assert [(one.server, one.name) for one in catalog.approved()] == [("s", "echo")]
    assert catalog.state("s2", "tool", "echo") == "held"


@pytest.mark.parametrize("signer", [OTHER, None])
def test_what_another_key_or_nobody_signed_is_not_served(signer):
    table = MemoryTable()
    made = signed(table, signer)
    made.observe(announce(ECHO))
    approve_all(made)
    assert names(made.snapshot()) == ["echo"]
    ours = signed(table)
    assert names(ours.snapshot()) == []
    assert "not served" in offered(ours)[0].held
    assert [row for row in ours.history() if row.event == "tampered"]
    with pytest.raises(NothingPending):
        ours.approve("s", "tool", "echo", "root", "hurry")
    ours.observe(announce(ECHO))
    approve_all(ours)
    assert names(signed(table).snapshot()) == ["echo"], "read and approved again under our key"


def test_an_unsigned_approval_under_a_good_seal_is_not_served(table):
    place = "entry\x1fs\x1ftool\x1fother"
    seals = Notary(SIGNER)
    record = json.loads(seals.unseal(place, table.get(place)))
    record["note"] = text_of(parse_note(record["note"]))
    row = "decision\x1fs\x1ftool\x1fother\x1f000000.00000001"
    table.put(row, seals.seal(row, record["note"].encode()))
    table.put(place, seals.seal(place, json.dumps(record, sort_keys=True).encode()))
    assert names(signed(table).snapshot()) == ["echo"]


def test_a_tool_that_only_looks_sees_what_is_signed(table):
    assert sorted(names(Registry(table).snapshot())) == ["echo", "other"]


def test_a_record_put_back_to_an_earlier_state_is_noticed():
    table = MemoryTable()
    made = signed(table)
    made.observe(announce(ECHO))
    made.approve("s", "tool", "echo", "root", "read it")
    place = "entry\x1fs\x1ftool\x1fecho"
    approved = table.get(place)
    made.reject("s", "tool", "echo", "root", "it steals", digest=offered(made)[0].approved)
    assert names(signed(table).snapshot()) == []
    table.put(place, approved)
    assert names(signed(table).snapshot()) == []
    assert names(made.snapshot()) == [], "and in the process that was running"
    assert "earlier state" in offered(made)[0].held


def test_votes_are_signed_too():
    table = MemoryTable()
    made = signed(table, governance=Governance(approvers=2))
    made.observe(announce(ECHO))
    made.approve("s", "tool", "echo", "ann", "read it")
    place, seals = "entry\x1fs\x1ftool\x1fecho", Notary(SIGNER)
    record = json.loads(seals.unseal(place, table.get(place)))
    record["votes"] = [record["votes"][0].replace('"by":"ann"', '"by":"bob"')]
    table.put(place, seals.seal(place, json.dumps(record, sort_keys=True).encode()))
    assert made.approve("s", "tool", "echo", "ann", "again").needed == 1, "a forged vote counts for nothing"


def test_a_crash_after_the_record_was_written_is_made_good():
    class Crash(Exception):
        pass

    class Crashing(MemoryTable):
        broken = False

        def put(self, key, value, expires=None):
            if self.broken and key.startswith(("mark", "decision")):
                raise Crash
            super().put(key, value, expires)

    table = Crashing()
    made = signed(table)
    made.observe(announce(ECHO))
    table.broken = True
    with pytest.raises(Crash):
        made.reject("s", "tool", "echo", "ann", "poisoned")
    table.broken = False
    again = signed(table)
    assert again.verify() == []
    again.observe(announce())
    assert [row.event for row in again.observe(announce(ECHO)) if row.kind == "tool"] == ["rejected_again"]
    table.broken = True
    with pytest.raises(Crash):
        again.approve("s", "tool", "echo", "ann", "after all", digest=again.versions("s", "tool", "echo")[0].digest)
    table.broken = False
    assert names(signed(table).snapshot()) == ["echo"]
    assert [v.state for v in signed(table).versions("s", "tool", "echo")] == ["approved"]


def test_history_names_the_signed_record_and_shows_where_it_was_altered(table):
    made = signed(table)
    rows = [row for row in made.history() if row.decision]
    assert len({row.decision for row in rows}) == len(rows) == 7
    (place,) = [key for key in table._rows if key.startswith("history")][-1:]
    table.put(place, flip(table.get(place)))
    assert list(made.history())[-1].event == "tampered"


# every field

TEXT = st.text("abcdefgh XYZ09.,é", min_size=1, max_size=8)
WORD = st.text("abcdefgh", min_size=1, max_size=6)
SCALAR = TEXT | st.booleans() | st.integers(-9, 9) | st.none()
VALUE = st.recursive(
    SCALAR, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(WORD, inner, max_size=2), max_leaves=4
)
PROPERTY = st.fixed_dictionaries(
    {"type": st.just("string")},
    optional={
        "description": TEXT,
        "title": TEXT,
        "default": TEXT,
        "enum": st.lists(TEXT, min_size=1, max_size=3, unique=True),
    },
)
SCHEMA = st.fixed_dictionaries(
    {"type": st.just("object"), "properties": st.dictionaries(WORD, PROPERTY, max_size=3)},
    optional={"description": TEXT},
)
ICONS = st.lists(st.fixed_dictionaries({"src": WORD.map(lambda word: f"https://{word}.example/i")}), max_size=2)
SHARED = {
    "title": TEXT,
    "description": TEXT,
    "_meta": st.dictionaries(WORD, VALUE, max_size=2),
    "later": VALUE,
    "icons": ICONS,
}
TOOL = st.fixed_dictionaries(
    {"name": st.just("t"), "inputSchema": SCHEMA},
    optional=SHARED
    | {"outputSchema": SCHEMA, "annotations": st.fixed_dictionaries({"readOnlyHint": st.booleans(), "title": TEXT})},
)
ARGUMENT = st.fixed_dictionaries({"name": WORD}, optional={"description": TEXT, "required": st.booleans()})
PROMPT = st.fixed_dictionaries(
    {"name": st.just("p")},
    optional=SHARED | {"arguments": st.lists(ARGUMENT, max_size=2, unique_by=lambda one: one["name"])},
)
RESOURCE = st.fixed_dictionaries(
    {"uri": st.just("file:///a"), "name": TEXT}, optional=SHARED | {"size": st.integers(0, 9)}
)
TEMPLATE = st.fixed_dictionaries({"uriTemplate": st.just("file:///{x}"), "name": TEXT}, optional=SHARED)
READING = st.fixed_dictionaries(
    {
        "tools": st.lists(TOOL, min_size=1, max_size=1),
        "prompts": st.lists(PROMPT, max_size=1),
        "resources": st.lists(RESOURCE, max_size=1),
        "templates": st.lists(TEMPLATE, max_size=1),
        "instructions": TEXT,
        "info": st.fixed_dictionaries({"name": TEXT, "version": TEXT}, optional={"title": TEXT, "description": TEXT}),
        "capabilities": st.dictionaries(WORD, st.dictionaries(WORD, st.booleans(), max_size=2), max_size=2),
        "identity": st.dictionaries(WORD, TEXT, min_size=1, max_size=3),
    }
)


def announcement(reading):
    lists = {member: tuple(reading[member]) for member in ("tools", "prompts", "resources", "templates")}
    return Announcement("s", "2026-07-28", **(copy.deepcopy(reading) | lists))


def places(value, path=()):
    """Every place where something can be flipped: leaves, member names, and lists that could grow."""
    if type(value) is dict:
        for name, member in value.items():
            yield (*path, name), "rename" if len(path) > 0 else "leaf"
            yield from places(member, (*path, name))
    elif type(value) is list:
        yield path, "grow"
        for index, member in enumerate(value):
            yield from places(member, (*path, index))
    else:
        yield path, "leaf"


def flipped(reading, path, how):
    changed = copy.deepcopy(reading)
    holder = changed
    for step in path[:-1]:
        holder = holder[step]
    old = holder[path[-1]]
    if how == "rename":
        holder[f"{path[-1]}Q"] = holder.pop(path[-1])
    elif how == "grow":
        holder[path[-1]] = [*old, {"name": "extra"}]
    elif type(old) is bool:
        holder[path[-1]] = not old
    elif type(old) is int:
        holder[path[-1]] = old + 1
    else:
        holder[path[-1]] = f"{old}Q"
    return changed


@given(st.data(), READING)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_flipping_any_field_of_any_record_is_noticed_and_changes_nothing_in_service(data, reading):
    made = signed()
    made.observe(announcement(reading))
    approve_all(made)
    assert made.observe(announcement(reading)) == [], "the same again is no change"
    before = {(one.kind, one.name): one.definition for one in made.snapshot().approved()}
    assert made.snapshot().state("s", "server", "") == made.snapshot().state("s", "set", "") == "approved"
    found = [
        (path, how)
        for path, how in places(reading)
        if not (how == "leaf" and len(path) == 1 and path[0] != "instructions")
    ]
    path, how = data.draw(st.sampled_from(sorted(found, key=repr)))
    rows = made.observe(announcement(flipped(reading, path, how)))
    kinds = {"tools": "tool", "prompts": "prompt", "resources": "resource", "templates": "template"}
    kind = kinds.get(path[0], path[0] if path[0] == "instructions" else "server")
    if how == "grow" and len(path) == 1:
        kind = "set"
    assert kind in {row.kind for row in rows}, (path, how)
    catalog = made.snapshot()
    for one in catalog.approved():
        assert before[one.kind, one.name] == one.definition
    if path[0] == "identity":
        assert catalog.approved() == ()
