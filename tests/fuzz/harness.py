"""A target is a reader of evae and the files it reads; here it is run on damaged copies of them."""

import random
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from tests.fuzz.forms import BYTES, Form
from tests.fuzz.mutations import changed, damaged
from tests.fuzz.watched import Watched

_BATCH = 200  # examples of one run of Hypothesis


@dataclass(frozen=True)
class Target:
    """A reader, and how its input is made and damaged.

    Args:
        make: writes a valid input into an empty folder.
        read: reads it by evae's public way in.
        forms: the form of the files that are damaged, by patterns of their names; the first that fits counts.
        seal: writes the digests of damaged files where others keep them, so that readers go on to their content.
        quick: number of examples in the fast tests, 0 for targets that take long or are like others.
    """

    make: Callable[[Path], None]
    read: Callable[[Path], object]
    forms: Mapping[str, Form]
    seal: Callable[[Path], None] = lambda folder: None
    quick: int = 4


def made(make: Callable[[Path], None], scratch: Path) -> Path:
    """A new folder with a valid input."""
    (whole := scratch / "whole").mkdir()
    with closing(Watched(make, scratch / "log")) as watched:  # a process without threads can be forked
        assert not (fault := watched.fault(whole)), fault
    return whole


def fuzz(target: Target, whole: Path, scratch: Path, seconds: float | None = None) -> dict[str, Path]:
    """The faults that damage of a ``whole`` input leads to, with the folder of an input for each kind.

    The inputs are the same few each time, or for ``seconds`` others, whose seed is printed.
    """
    folder, faults = scratch / "input", dict[str, Path]()
    end = None if seconds is None else time.monotonic() + seconds

    def example(data) -> None:
        shutil.copytree(whole, folder)
        try:
            readable = data.draw(_damage(target, folder))
            if readable and (end is None or time.monotonic() < end) and (fault := watched.fault(folder)):
                kind = fault.splitlines()[0]
                if kind not in faults:
                    faults[kind] = _kept(folder, fault)
        finally:
            shutil.rmtree(folder)

    with closing(Watched(target.read, scratch / "log")) as watched:
        shutil.copytree(whole, folder)
        assert not (fault := watched.fault(folder)), f"without damage: {fault}"
        shutil.rmtree(folder)
        if end is None:
            _settings(target.quick, derandomize=True)(given(st.data())(example))()
            return faults
        first = random.SystemRandom().randrange(2**32)
        print(f"seeds from {first}")
        for number in count(first):
            seed(number)(_settings(_BATCH)(given(st.data())(example)))()
            if time.monotonic() > end:
                print(f"{number - first + 1} times {_BATCH} inputs")
                return faults
    raise AssertionError


def _settings(examples: int, **options) -> settings:
    checks = list(HealthCheck)
    phases = [Phase.generate]
    return settings(
        max_examples=examples, database=None, deadline=None, phases=phases, suppress_health_check=checks, **options
    )


@st.composite
def _damage(draw, target: Target, folder: Path) -> bool:
    """Damage a file of the folder; whether it could be written."""
    path, form = draw(st.sampled_from(_files(target, folder)))
    content = path.read_bytes()
    if form is BYTES or draw(st.booleans()):
        result = draw(damaged(content))
    else:
        record = draw(changed(form.parse(content)))
        try:
            result = form.build(record)
        except Exception:  # of whatever writes this form
            return False
    path.write_bytes(result)
    if draw(st.booleans()):
        target.seal(folder)
    return True


def _files(target: Target, folder: Path) -> list[tuple[Path, Form]]:
    """The files that are damaged, with the form of the first pattern that each one's name has."""
    forms = {path: form for pattern, form in reversed(target.forms.items()) for path in folder.rglob(pattern)}
    return sorted(((path, form) for path, form in forms.items() if path.is_file()), key=lambda pair: pair[0])


def _kept(folder: Path, fault: str) -> Path:
    """A copy of an input, for another look."""
    place = Path(tempfile.mkdtemp(prefix="evae-fuzz-"))
    (place / "fault.txt").write_text(fault, errors="replace")
    return Path(shutil.copytree(folder, place / "input"))
