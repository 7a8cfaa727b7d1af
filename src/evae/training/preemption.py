"""Reasons to stop early: a signal, or the end of the time that was given."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from evae.console import console
from evae.errors import EvaeError

# SIGUSR1 is what SLURM's --signal sends before a job ends.
_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)]
TIME_LIMIT = 1000  # beside the numbers of signals
TRY_AGAIN = 75  # sysexits.h's EX_TEMPFAIL: "the user is invited to retry"


class StoppedError(EvaeError):
    """A signal came outside of the training loop: while images were decoded, say."""

    exit_code = TRY_AGAIN

    def __init__(self, signum: int) -> None:
        name = signal.Signals(signum).name
        super().__init__(f"received {name} outside the training loop; rerun the command with --resume auto")


class InterruptedRun(EvaeError):
    """Training was asked to stop and has saved its state; exit code 130 for Ctrl-C, else TRY_AGAIN, for schedulers."""

    def __init__(self, reason: int, run: str, step: int) -> None:
        self.exit_code = 128 + reason if reason == signal.SIGINT else TRY_AGAIN
        cause = "the time limit" if reason == TIME_LIMIT else signal.Signals(reason).name
        saved = f"step {step} is saved in {run}. Continue with --resume auto (without --overwrite)"
        super().__init__(f"interrupted by {cause}; {saved}")


@dataclass
class StopRequest:
    """A reason to stop: the signal that was received, or that time.monotonic() is past the deadline."""

    deadline: float | None
    received: int = 0

    @property
    def reason(self) -> int:
        """As a number that processes can compare: 0 for none, a signal's, or TIME_LIMIT."""
        late = self.deadline is not None and time.monotonic() > self.deadline
        return self.received or (TIME_LIMIT if late else 0)


@contextmanager
def signals_as_exceptions() -> Iterator[None]:
    """Let SIGTERM and SIGUSR1 end what runs as Ctrl-C does, with StoppedError: temporary files are cleaned up.

    A second one has its usual effect: it ends the process.
    """
    received = []

    def end(signum: int, before: Any) -> None:
        received.append(signum)
        signal.signal(signum, before)
        raise KeyboardInterrupt

    try:
        with _handled([signum for signum in _SIGNALS if signum != signal.SIGINT], end):
            yield
    except KeyboardInterrupt:
        if not received:
            raise
        raise StoppedError(received[0]) from None


@contextmanager
def deferred_signals(deadline: float | None = None) -> Iterator[StopRequest]:
    """Collect signals instead of ending at once; a second one has its usual effect."""
    stop = StopRequest(deadline)

    def note(signum: int, before: Any) -> None:
        stop.received = signum
        signal.signal(signum, before)
        console.print("finishing this step and saving; press Ctrl-C again to abort now")

    with _handled(_SIGNALS, note):
        yield stop


@contextmanager
def _handled(signals: list[signal.Signals], handle: Callable[[int, Any], None]) -> Iterator[None]:
    """Give signals to ``handle``, each with its handler from before, which is put back afterwards.

    Only in the main thread, which alone receives signals, and for handlers installed from Python: others, which
    getsignal gives as None, could not be put back.
    """
    is_main = threading.current_thread() is threading.main_thread()
    handlers = {signum: signal.getsignal(signum) for signum in signals if is_main}
    before: dict[int, Any] = {signum: handler for signum, handler in handlers.items() if handler is not None}
    for number in before:
        signal.signal(number, lambda signum, frame: handle(signum, before[signum]))
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
