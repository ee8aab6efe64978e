"""What outlives a configuration: keys that are renewed while handles are under way, settings that are followed, memory
that stays flat."""

import gc
import os
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from contracts.memory import MemoryTable
from limen.config.kept import StorageConfig
from limen.config.model import Config
from limen.continuity import Continuity, places
from limen.core.call import Caller, Peer
from limen.core.faults import ConfigFault
from limen.identity.handles import STATE
from limen.identity.session_risk import RiskSettings, Seen, begin
from limen.identity.sessions import SessionSettings

ALICE = Caller("https://id.example", "alice", "desk", token_id="t")


def config(tmp_path: Path, **sessions: Any) -> Config:
    return Config(storage=StorageConfig(path=tmp_path / "limen.db"), sessions=SessionSettings(**sessions))


def opened(one: Continuity, subject: str = "alice") -> str:
    caller = Caller("https://id.example", subject, "desk")
    trail = begin(Seen("192.0.2.1", "Desk/1.0", "t"), RiskSettings(), time.time())
    return one.sessions.open(caller, "hr", "2025-11-25", {"elicitation": {}}, "t", trail)


def test_the_sealing_key_is_renewed_by_one_replica_and_known_to_all(tmp_path: Path) -> None:
    table = MemoryTable()
    one, other = (Continuity(config(tmp_path), table, table, lambda event: None) for _ in range(2))
    assert not one.renew_keys()
    sealed = one.handles.seal(STATE, ALICE.key, "hr", b"under way", 60)
    kek = tmp_path / "handle-keys" / "kek"
    month = time.time() - 31 * 86_400
    os.utime(kek, (month, month))
    assert one.renew_keys()
    assert not other.renew_keys()
    assert len(kek.read_bytes().splitlines()) == 2
    known = other.handles.open(STATE, ALICE.key, "hr", sealed)
    assert known is not None
    assert known.data == b"under way"
    os.utime(kek, (time.time() - 60, time.time() - 60))  # every replica has seen it by now
    assert one.keys.age > 50
    fresh = one.handles.seal(STATE, ALICE.key, "hr", b"new key", 60)
    assert fresh[:6] != sealed[:6]
    time.sleep(0.06)
    assert other.handles.open(STATE, ALICE.key, "hr", fresh) is not None


def test_settings_are_followed_and_what_lives_stays(tmp_path: Path) -> None:
    events: list[Any] = []
    one = Continuity(config(tmp_path), MemoryTable(), MemoryTable(), events.append)
    session = opened(one)
    one.adopt(config(tmp_path, per_caller=1, misuse={"networks": False}, risk={"ipv4_prefix": 8}))
    caller = Caller("https://id.example", "alice", "desk")
    assert one.sessions.find(session, caller, "hr") is not None
    opened(one)
    assert one.sessions.find(session, caller, "hr") is None
    for address in ("192.0.2.1", "198.51.100.1", "192.0.2.1"):
        one.misuse.used(caller, address)
    assert [event for event in events if event["t"] != "session"] == []
    assert one.sessions.settings.risk.network("192.0.2.1") == "192.0.0.0/8"


def test_a_file_of_places_that_is_not_there_is_a_fault_of_the_configuration(tmp_path: Path) -> None:
    assert places(config(tmp_path)) is None
    with pytest.raises(ConfigFault, match="MaxMind"):
        places(config(tmp_path, geoip=tmp_path / "missing.mmdb"))


def test_c6_memory_is_flat_under_churn(tmp_path: Path) -> None:
    one = Continuity(config(tmp_path, total=200), MemoryTable(), MemoryTable(), lambda event: None)
    peer = Peer("http", "192.0.2.1")

    def churn(rounds: int) -> int:
        for number in range(rounds):
            opened(one, f"s{number % 400}")
            one.misuse.used(ALICE, peer.address)
        gc.collect()
        ours = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(True, "*/limen/*")])
        return sum(trace.size for trace in ours.traces)  # not what threads of other tests hold

    tracemalloc.start()
    try:
        churn(800)
        before = churn(800)
        after = churn(2400)
    finally:
        tracemalloc.stop()
    assert len(one.sessions) == 200
    assert after < before * 1.1
