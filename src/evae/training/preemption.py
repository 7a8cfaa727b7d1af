"""Reasons to stop before the end: a signal, or the time that was given is over."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from evae.console import console
from evae.errors import EvaeError

# SIGUSR1 is what SLURM's --signal sends ahead of a job's end.
_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)]
TIME_LIMIT = 1000  # beside the numbers of signals
TRY_AGAIN = 75  # sysexits.h's EX_TEMPFAIL: "the user is invited to retry"


class StoppedError(EvaeError):
    """A signal came where no step was being taken: while images were decoded, say."""

    exit_code = TRY_AGAIN

    def __init__(self, signum: int) -> None:
        super().__init__(
            f"stopped by {described(signum)} while no step was being taken; with --resume auto the same command goes on"
        )


class Stops:
    """What has come up, as a number that processes can compare: 0, a signal's, or TIME_LIMIT."""

    def __init__(self, minutes: float | None) -> None:
        self.deadline = None if minutes is None else time.monotonic() + 60 * minutes
        self.received = 0

    def __call__(self) -> int:
        """The reason there is to stop now; 0 where there is none."""
        late = self.deadline is not None and time.monotonic() > self.deadline
        return self.received or (TIME_LIMIT if late else 0)


def described(reason: int) -> str:
    """The reason in words."""
    return "the time limit" if reason == TIME_LIMIT else signal.Signals(reason).name


def exit_code(reason: int) -> int:
    """130 where a user interrupted; else the code by which a scheduler knows that the job wants to run again."""
    return 128 + reason if reason == signal.SIGINT else TRY_AGAIN


@contextmanager
def ending_stops() -> Iterator[None]:
    """Have SIGTERM and SIGUSR1 end what is going on as Ctrl-C does, so that nothing half done is left behind.

    Raises:
        StoppedError: one came.
    """
    received = []

    def end(signum: int, before: Any) -> None:
        received.append(signum)
        raise KeyboardInterrupt

    try:
        with _handled([signum for signum in _SIGNALS if signum != signal.SIGINT], end):
            yield
    except KeyboardInterrupt:
        if not received:
            raise
        raise StoppedError(received[0]) from None


@contextmanager
def noted_stops(minutes: float | None) -> Iterator[Stops]:
    """Collect signals instead of dying of them; a second one has its usual effect."""
    stops = Stops(minutes)

    def note(signum: int, before: Any) -> None:
        stops.received = signum
        signal.signal(signum, before)
        console.print("stopping after this step; once more to stop at once")

    with _handled(_SIGNALS, note):
        yield stops


@contextmanager
def _handled(signals: list[signal.Signals], handle: Callable[[int, Any], None]) -> Iterator[None]:
    """Let ``handle`` have signals, each with the handler it had before, which then gets it back.

    Does nothing outside of the main thread, which alone gets signals.
    """
    is_main = threading.current_thread() is threading.main_thread()
    before: dict[int, Any] = {signum: signal.getsignal(signum) for signum in signals} if is_main else {}
    for number in before:
        signal.signal(number, lambda signum, frame: handle(signum, before[signum]))
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
