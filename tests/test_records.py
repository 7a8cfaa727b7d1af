"""Records: what is not of the type, too large or too deep, and files that are none, are one RecordError."""

import json
import math
import os
import re
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evae.records import Finite, RecordError, as_type, parse_json, read_bytes, read_json
from evae.yaml_files import YamlError, compose, construct

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters())
VALUES = st.recursive(SCALARS, lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(), v, max_size=3))


@dataclass(frozen=True)
class Inner:
    x: Finite
    kind: Literal["a", "b", 1] = "a"


@dataclass(frozen=True)
class Outer:
    count: int
    inner: Inner
    many: tuple[Inner, ...] = ()
    rates: list[Finite | None] = field(default_factory=list)
    about: dict[str, Any] = field(default_factory=dict)


WHOLE = {
    "count": 3,
    "inner": {"x": 1, "kind": "b"},
    "many": [{"x": 0.5}],
    "rates": [None, 2],
    "about": {"a": [1, "é", None, {"b": math.inf}]},
}


def test_a_whole_record():
    record = as_type(WHOLE, Outer)
    assert record == Outer(3, Inner(1.0, "b"), (Inner(0.5),), [None, 2.0], WHOLE["about"])
    assert type(record.inner.x) is float


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"count": "x"}, "expected `int`, got `str` - at `$.count`"),
        ({"count": True}, "expected `int`, got `bool` - at `$.count`"),
        ({"count": 1.0}, "expected `int`, got `float` - at `$.count`"),
        ({"count": None}, "expected `int`, got `null` - at `$.count`"),
        ({"count": 2**63}, "a number has more than 64 bits"),
        ({"inner": {}}, "object missing required field `x` - at `$.inner`"),
        ({"inner": {"x": math.nan}}, "expected `float` >= -1e+100 - at `$.inner.x`"),
        ({"inner": {"x": 1e300}}, "expected `float` <= 1e+100 - at `$.inner.x`"),
        ({"inner": {"x": 1, "kind": True}}, "expected `int | str`, got `bool` - at `$.inner.kind`"),
        ({"inner": []}, "expected `object`, got `array` - at `$.inner`"),
        ({"many": {}}, "expected `array`, got `object` - at `$.many`"),
        ({"rates": [[]]}, "expected `float | null`, got `array` - at `$.rates[0]`"),
        ({"about": {"a": "\0"}}, "a text has a NUL"),
        ({"about": {"\ud800": 1}}, "a text has a NUL or half a character"),
        ({"about": {1: 1}}, "expected `str`, got `int` - at `key` in `$.about`"),
        ({"about": {"a": {1}}}, "a value of type set"),
        ({"about": {"a": b""}}, "a value of type bytes"),
    ],
)
def test_other_types(change, message):
    with pytest.raises(RecordError, match=f"^{re.escape(message)}"):
        as_type(WHOLE | change, Outer)


@given(VALUES, st.sampled_from(sorted(WHOLE)))
def test_any_value_in_any_place(value, name):
    with suppress(RecordError):
        json.dumps(as_type(WHOLE | {name: value}, Outer).about)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff", b"[" * 10**5, b'{"a": ' * 10**5, b"1" * 400, b"1" * 10**5, b'"\\ud800', b"[" * 50 + b"]" * 50],
)
def test_no_json(content, tmp_path):
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(RecordError):
        read_json(tmp_path / "a", Any)


def test_numbers_of_64_bits():
    assert parse_json("[9223372036854775807, -1]") == [2**63 - 1, -1]
    assert as_type(2**63 - 1, int) == 2**63 - 1


class TestFiles:
    def test_size(self, tmp_path):
        (tmp_path / "a").write_bytes(b"12345")
        assert read_bytes(tmp_path / "a", 5) == b"12345"
        with pytest.raises(RecordError, match="larger than 4 bytes"):
            read_bytes(tmp_path / "a", 4)
        with pytest.raises(FileNotFoundError):
            read_bytes(tmp_path / "b")

    @pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
    def test_what_is_no_file(self, kind, tmp_path):
        path = tmp_path / "a"
        {"pipe": os.mkfifo, "device": lambda p: p.symlink_to("/dev/zero"), "folder": os.mkdir}[kind](path)
        with pytest.raises(RecordError, match="not a regular file"):
            read_bytes(path)

    def test_a_link_to_a_file_is_read(self, tmp_path):
        (tmp_path / "a").write_bytes(b"3")
        (tmp_path / "b").symlink_to(tmp_path / "a")
        assert read_json(tmp_path / "b", int) == 3


@pytest.mark.parametrize(
    "text",
    [
        "a: 2001-99-99",
        "a: 0x_",
        "a: 1" + "0" * 5000,
        "a: 1" + ":1" * 10**5,
        "a: &a [*a]",
        "a: !!int x",
        "{a: b",
        "? [a, b]\n: c",
        "[" * 10**5,
        "a: !!binary x",
    ],
)
def test_values_of_yaml_that_are_none(text):
    with pytest.raises((YamlError, RecordError)):
        as_type(construct(compose(text)), dict[str, Any])


@given(st.text(max_size=60))
def test_any_yaml(text):
    with suppress(YamlError, RecordError):
        node = compose(text)
        as_type(None if node is None else construct(node), dict[str, Any])
