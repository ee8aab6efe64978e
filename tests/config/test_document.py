"""The reader: what YAML could do to us, and that honest files keep their meaning and their places."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from limen.config.document import parse, read_file
from limen.core.faults import ConfigFault


@pytest.mark.parametrize(
    ("text", "where", "words"),
    [
        ("a: &x 1\nb: *x\n", "f.yaml:1:4", "anchors"),
        ("a: 1\nb: *x\n", "f.yaml:2:4", "anchors"),
        ("a: !!python/object/apply:os.system [id]\n", "f.yaml:1:4", "tags"),
        ("a: !!str 1\n", "f.yaml:1:4", "tags"),
        ("a: 1\nb: 2\na: 3\n", "f.yaml:3:1 a", "stands twice; first at line 1"),
        ("a:\n  b: {c: 1, c: 2}\n", "f.yaml:2:13 a.b.c", "twice"),
        ("1: a\n", "f.yaml:1:1", "key must be text"),
        ("[a, b]: c\n", "f.yaml:1:1", "key must be text"),
        ("true: a\n", "f.yaml:1:1", "key must be text"),
        ("${env:KEY}: a\n", "f.yaml:1:1", "values only"),
        ("a: 1\n---\nb: 2\n", "f.yaml:2:1", "document"),
        ("a: [1, 2\n", "f.yaml:2:1", "expected"),
        ("a: \x07\n", "f.yaml:1:1", "control character"),
        ("a: " + "[" * 40 + "]" * 40, "f.yaml:1:", "deep"),
        ("a: " + "9" * 5000, "f.yaml:1:4", "number"),
        ('a: "\\ud83d"\n', "f.yaml:1:4", "half a character"),
    ],
)
def test_refuses_what_yaml_should_not_do(text: str, where: str, words: str) -> None:
    with pytest.raises(ConfigFault) as caught:
        parse(text.encode(), "f.yaml")
    assert caught.value.where.startswith(where)
    assert words in caught.value.message


def test_billion_laughs_costs_nothing() -> None:
    bomb = 'a: &a ["x","x"]\n' + "".join(f"b{n}: &b{n} [*a, *a, *a, *a]\n" for n in range(1000))
    with pytest.raises(ConfigFault, match="anchors"):
        parse(bomb.encode(), "f.yaml")


def test_not_utf8() -> None:
    with pytest.raises(ConfigFault, match="UTF-8"):
        parse(b"a: 1\nb: \xff\n", "f.yaml")


def test_words_keep_their_meaning() -> None:
    text = "a: no\nb: on\nc: true\nd: 2024-01-01\ne: 1:30\nf: 010\ng: 0x10\nh: 1e3\ni: ~\nj:\n"
    text += "k: .inf\nl: 1.5\nm: -3\nn: <<\n"
    assert parse(text.encode(), "f.yaml").value == {
        "a": "no", "b": "on", "c": True, "d": "2024-01-01", "e": "1:30", "f": 10, "g": 16, "h": 1000.0, "i": None,
        "j": None, "k": ".inf", "l": 1.5, "m": -3, "n": "<<",
    }  # fmt: skip


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(min_size=1, max_size=10), inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(st.text(min_size=1, max_size=10), _JSON, max_size=5), st.sampled_from([None, 2, "\t"]))
def test_json_reads_as_json(value: dict[str, object], indent: int | str | None) -> None:
    """Client files are JSON: escapes, surrogate pairs and tabs included."""
    if "${" in json.dumps(value):
        return
    assert parse(json.dumps(value, indent=indent).encode(), "f.json").value == value


def test_broken_json_names_the_place() -> None:
    with pytest.raises(ConfigFault) as caught:
        parse(b'{"a": 1,\n // why\n "b": 2}', "f.json")
    assert caught.value.where == "f.json:2:2"


def test_places() -> None:
    document = parse(b"a:\n  - b: 1\n    c:\n      d: x\n", "f.yaml")
    assert document.where(("a", 0, "c", "d")) == "f.yaml:4:10 a[0].c.d"
    assert document.where(("a", 0, "c", "d"), key=True) == "f.yaml:4:7 a[0].c.d"
    assert document.where(("a", 0, "missing")) == "f.yaml:2:5 a[0].missing"


def test_files_others_can_change_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "limen.yaml"
    path.write_text("a: 1")
    assert read_file(path, "it") == b"a: 1"
    path.chmod(0o666)
    with pytest.raises(ConfigFault, match="everybody may write"):
        read_file(path, "it")
    path.chmod(0o600)
    tmp_path.chmod(0o777)
    with pytest.raises(ConfigFault, match="everybody may replace"):
        read_file(path, "it")
    tmp_path.chmod(0o1777)
    assert read_file(path, "it") == b"a: 1"
    tmp_path.chmod(0o700)


def test_links_devices_and_size(tmp_path: Path) -> None:
    path, link, pipe = tmp_path / "real", tmp_path / "link", tmp_path / "pipe"
    path.write_text("a: 1")
    link.symlink_to(path)
    os.mkfifo(pipe)
    with pytest.raises(ConfigFault, match="symbolic link"):
        read_file(link, "it")
    assert read_file(link, "it", follow=True) == b"a: 1"
    with pytest.raises(ConfigFault, match="regular file"):
        read_file(pipe, "it")
    with pytest.raises(ConfigFault, match="regular file"):
        read_file(Path("/dev/zero"), "it")
    with pytest.raises(ConfigFault, match="larger"):
        read_file(path, "it", limit=3)
    with pytest.raises(ConfigFault, match="No such file"):
        read_file(tmp_path / "none", "it")


def test_the_shared_loader_is_left_alone() -> None:
    assert yaml.safe_load("a: yes") == {"a": True}
