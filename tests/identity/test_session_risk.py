"""Hijack score: a table of journeys (C4, C5), honest ones beside the thefts they resemble. No clock, no network."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from identity.places import write_places
from limen.adapters.geoip import Places
from limen.core.faults import ConfigFault
from limen.identity.session_risk import RiskSettings, RiskWeights, Seen, Trail, begin, kilometres, network, observe

SEOUL, BUSAN, LONDON = (37.57, 126.98), (35.18, 129.08), (51.51, -0.13)
WHERE = {
    "203.0.113.0/24": SEOUL,  # home
    "198.51.100.0/24": SEOUL,  # the mobile operator
    "192.0.2.0/24": BUSAN,
    "100.70.1.0/24": LONDON,  # the far end of a VPN
    "2001:db8:1::/48": SEOUL,
}
HOME, HOME2, MOBILE = "203.0.113.5", "203.0.113.77", "198.51.100.9"
HOTEL, ABROAD, SIX, NOWHERE = "192.0.2.4", "100.70.1.20", "2001:db8:1::7", "100.64.3.3"
OLD, NEW, CURL = "Desk/1.0", "Desk/1.1", "curl/8.0"
NONE, RECORD, STEP_UP, END = "none", "record", "step_up", "end"

# name -> (seconds since the start, address, agent, what follows), after a start at home with the old agent
JOURNEYS = {
    "the same place all day": [(600 * i, HOME, OLD, NONE) for i in range(1, 9)],
    "another address of the same network": [(5, HOME2, OLD, NONE), (9, HOME, OLD, NONE)],
    "honest: from the desk to the train": [(60, HOME, OLD, NONE), (70, MOBILE, OLD, RECORD), (400, MOBILE, OLD, NONE)],
    "honest: out for lunch and back": [(60, MOBILE, OLD, RECORD), (800, MOBILE, OLD, NONE), (1500, HOME, OLD, RECORD)],
    "honest: an address of each family in turn": [
        (5, SIX, OLD, RECORD), (6, HOME, OLD, NONE), (7, SIX, OLD, NONE), (8, HOME, OLD, NONE),
    ],
    "honest: the browser is updated": [(60, HOME, OLD, NONE), (90, HOME, NEW, RECORD), (99, HOME, NEW, NONE)],
    "honest: updated, then on the train": [(60, HOME, NEW, RECORD), (120, MOBILE, NEW, RECORD)],
    "honest: long silence": [(3000, HOME, OLD, RECORD), (3001, HOME, OLD, NONE)],
    "honest: by train to another city": [(9000, HOTEL, OLD, RECORD)],
    "honest: a night's sleep, then abroad by plane": [(50_000, ABROAD, OLD, RECORD)],
    "honest: a VPN switched on is asked to sign in, not thrown out": [(60, ABROAD, OLD, STEP_UP)],
    "honest: a place the file does not know": [(60, NOWHERE, OLD, RECORD)],
    "theft: id and token used abroad with another program": [(60, ABROAD, CURL, END)],
    "theft: in the same city, victim goes on": [(30, MOBILE, CURL, RECORD), (40, HOME, OLD, END)],
    "theft: the same program, victim goes on": [(30, MOBILE, OLD, RECORD), (40, HOME, OLD, STEP_UP)],
    "theft: one sign after the other": [
        (30, HOME, CURL, RECORD), (200, MOBILE, CURL, RECORD), (300, HOTEL, CURL, RECORD), (310, ABROAD, CURL, END),
    ],
    "theft: taken up after a silence, abroad": [(5000, ABROAD, CURL, END)],
}  # fmt: skip


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Places:
    path = tmp_path_factory.mktemp("geoip") / "places.mmdb"
    write_places(path, WHERE)
    return Places(path)


@pytest.mark.parametrize("name", JOURNEYS)
def test_c5_journeys(name: str, places: Places) -> None:
    settings = RiskSettings()
    trail = begin(Seen(HOME, OLD, "t"), settings, 1000.0)
    for at, address, agent, action in JOURNEYS[name]:
        trail = Trail.read(trail.plain())  # as another replica has it
        judged = observe(trail, Seen(address, agent, "t"), settings, 1000.0 + at, places)
        assert (at, judged.action) == (at, action), judged


def test_what_each_signal_weighs_is_data(places: Places) -> None:
    heavy = RiskSettings(weights=RiskWeights(agent=0.9))
    light = RiskSettings(weights=RiskWeights(travel=0.0, network=0.1))
    for settings, address, agent, action in ((heavy, HOME, CURL, END), (light, ABROAD, CURL, RECORD)):
        trail = begin(Seen(HOME, OLD, "t"), settings, 0.0)
        assert observe(trail, Seen(address, agent, "t"), settings, 60.0, places).action == action


def test_a_signal_counts_once_and_fades() -> None:
    settings = RiskSettings()
    trail = begin(Seen(HOME, OLD, "t"), settings, 0.0)
    assert observe(trail, Seen(MOBILE, OLD, "t"), settings, 100.0).score == 0.3
    assert observe(trail, Seen(HOTEL, OLD, "t"), settings, 200.0).score == 0.3
    assert observe(trail, Seen(HOTEL, NEW, "t"), settings, 300.0).score == 0.5
    assert observe(trail, Seen(HOTEL, OLD, "t"), settings, 899.0).score == 0.2


def test_prefixes_that_count_as_one_network() -> None:
    assert network("203.0.113.5") == network("::ffff:203.0.113.99") == "203.0.113.0/24"
    assert network("2001:db8:1:2::1") == network("2001:db8:1:3::1") != network("2001:db8:2::1")
    assert network("127.0.0.1") == network("::1")
    assert network("not an address") == "not an address"
    pool = RiskSettings(networks=("198.51.100.0/22",))
    assert pool.network("198.51.100.1") == pool.network("198.51.102.9") != pool.network("198.51.99.1")
    trail = begin(Seen("198.51.100.1", OLD, "t"), pool, 0.0)
    for number in range(12):  # a hosted client behind many addresses
        assert observe(trail, Seen(f"198.51.{100 + number % 3}.9", OLD, "t"), pool, number * 2.0).action == NONE
    with pytest.raises(ValidationError):
        RiskSettings(networks=("198.51.100.1/22",))
    with pytest.raises(ValidationError, match="step_up comes before end"):
        RiskSettings(step_up=0.8, end=0.5)


def test_distances() -> None:
    assert 8800 < kilometres(SEOUL, LONDON) < 8950
    assert 300 < kilometres(SEOUL, BUSAN) < 340
    assert kilometres(SEOUL, SEOUL) == 0


def test_places_are_read_from_a_maxmind_db(places: Places, tmp_path: Path) -> None:
    assert places(HOME) == pytest.approx(SEOUL)
    assert places("::ffff:" + HOTEL) == pytest.approx(BUSAN)
    assert places(ABROAD) == pytest.approx(LONDON)
    assert places(SIX) == pytest.approx(SEOUL)
    assert places(NOWHERE) is None
    assert places("unix") is None
    for content in (b"", b"not a database", (tmp_path / "x").name.encode() * 99):
        (tmp_path / "bad.mmdb").write_bytes(content)
        with pytest.raises(ConfigFault, match="MaxMind"):
            Places(tmp_path / "bad.mmdb")
    with pytest.raises(ConfigFault):
        Places(tmp_path / "missing.mmdb")
