"""Damage, as Hypothesis draws it: to bytes, and to structures of dicts, lists, bytes and scalars."""

import copy
import math
import struct

from hypothesis import strategies as st

DEEP = "@deep@"  # in the place of lists that are nested too deeply for Python to write them

HOSTILE = [
    *(-1, 0, 1, 2, 1.5, 2**31, 2**53 + 1, 2**63 - 1, 2**63, -(2**63), 10**400, 1e308, -1e308, math.nan, math.inf),
    *("", "x", "\0", "\ud800", "\x1b[2J", "x" * 10**5, "../../../etc/passwd", "/dev/zero", "évae", "1e999", DEEP),
    *(None, True, False, [], {}, [[]], [None], [-1], {"": None}, {"x": {"x": []}}, [0] * 1000, ["x"], b"", b"\0\xff"),
]
_WORDS = [
    *(struct.pack(form, value) for form in ("<i", ">i") for value in (-1, 2**31 - 1, -(2**31), 2**24, 255)),
    *(struct.pack(form, value) for form in ("<q", ">q") for value in (-1, 2**63 - 1, -(2**63), 2**40)),
    *(b"\0", b"\xff", b"\x7f", b"\x80", b"[" * 5000, b"\n", b"'", b"\xf0\x9f"),
]


@st.composite
def damaged(draw, content: bytes) -> bytes:
    """Bytes after some of: bits and words that are others, parts that are cut, inserted, doubled, swapped."""
    result = bytearray(content)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(result)))
        length = draw(st.sampled_from([1, 2, 4, 8, 64, 4096, len(result)]))
        part, word = result[at : at + length], draw(st.sampled_from(_WORDS) | st.binary(min_size=1, max_size=8))
        match draw(st.sampled_from(["bit", "word", "word", "cut", "insert", "double", "move"])):
            case "bit" if part:
                result[at] ^= 1 << draw(st.integers(0, 7))
            case "word":
                result[at : at + len(word)] = word
            case "cut":
                del result[at : at + length]
            case "insert":
                result[at:at] = word
            case "double":
                result[at:at] = part
            case "move":
                to = draw(st.integers(0, len(result)))
                result[to : to + len(part)] = part
    return bytes(result)


@st.composite
def changed(draw, record):
    """A copy of a structure with one to three values replaced, dropped, added, or moved to another place."""
    record = copy.deepcopy(record)
    for _ in range(draw(st.integers(1, 3))):
        places = list(_places(record))
        if not places:
            return draw(_hostile())
        holder, key = draw(_one_of(places))
        value = holder[key]
        match draw(st.sampled_from(["damage", "replace", "replace", "drop", "add", "move"])):
            case "damage" if isinstance(value, bytes):
                holder[key] = draw(damaged(value))
            case "damage" if isinstance(value, int) and not isinstance(value, bool):
                holder[key] = value + draw(st.sampled_from([-1, 1, value, 2**20]))
            case "damage" | "replace":
                holder[key] = draw(_hostile())
            case "drop":
                del holder[key]
            case "add" if isinstance(holder, dict):
                holder[draw(st.sampled_from(["x", "", "\0", "__class__", "version"]))] = draw(_hostile())
            case "add":
                holder.insert(key, copy.deepcopy(value))
            case "move":
                other, name = draw(_one_of(places))
                holder[key] = copy.deepcopy(other[name])
    return record


def _one_of(values: list):
    """One of many values; sampled_from would describe them all where something fails."""
    return st.integers(0, len(values) - 1).map(values.__getitem__)


def _hostile():
    return st.sampled_from(HOSTILE).map(copy.deepcopy)


def _places(record):
    """Every value in a structure, as the dict or list that holds it and its key there."""
    items = record.items() if isinstance(record, dict) else enumerate(record) if isinstance(record, list) else ()
    for key, value in list(items):
        yield record, key
        yield from _places(value)
