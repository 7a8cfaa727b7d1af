"""A reader in a process of its own that is watched: its errors, its memory, its time, and how it ends."""

import faulthandler
import multiprocessing
import os
import resource
import signal
import sys
import traceback
import warnings
from contextlib import suppress
from pathlib import Path

from evae.data import workers
from evae.errors import EvaeError

SECONDS, WAITING = 10, 60  # of computing, and in all, for one input
MEMORY = 2**30  # bytes above the start
_LIMIT = 2**32  # bytes above the start that the system refuses

_CONTEXT = multiprocessing.get_context("fork")


class Watched:
    """Calls ``read(folder)`` for one folder after the other; a new process takes the place of one that died."""

    def __init__(self, read, log: Path):
        self.read, self.log = read, log
        self._start()

    def fault(self, folder: Path) -> str:
        """What is wrong with the reader, "" where it read the folder or raised an error of evae's own."""
        self.connection.send(folder)
        try:
            fault = self.connection.recv() if self.connection.poll(WAITING) else f"waited for {WAITING} s"
        except EOFError:
            self.process.join(WAITING)
            number = -(self.process.exitcode or 0)
            fault = f"computed for {SECONDS} s" if number == signal.SIGPROF else f"died of signal {number}"
        if fault:
            self.close()
            fault += "\n" + self.log.read_text(errors="replace")
            self._start()
        return fault

    def _start(self):
        self.connection, theirs = _CONTEXT.Pipe()
        self.process = _CONTEXT.Process(target=_serve, args=(theirs, self.read, self.log), daemon=True)
        self.process.start()
        theirs.close()

    def close(self):
        self.connection.close()
        self.process.kill()
        self.process.join()


def _serve(connection, read, log):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    warnings.simplefilter("ignore")
    workers._MANY = sys.maxsize  # no further processes
    with log.open("w") as stack, Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
        sys.stdout = sys.stderr = nowhere
        faulthandler.enable(stack)
        faulthandler.register(signal.SIGPROF, stack, chain=True)
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # forget the most memory that the parent has had
        before = _most_memory()
        mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (mapped + _LIMIT, resource.RLIM_INFINITY))
        while folder := _received(connection):
            signal.setitimer(signal.ITIMER_PROF, SECONDS)
            faulthandler.dump_traceback_later(WAITING - 1, file=stack)
            fault = _fault(read, folder)
            faulthandler.cancel_dump_traceback_later()
            signal.setitimer(signal.ITIMER_PROF, 0)
            grown = _most_memory() - before
            connection.send(fault or (f"took {grown / 2**20:.0f} MB" if grown > MEMORY else ""))
    os._exit(0)


def _received(connection):
    try:
        return connection.recv()
    except (EOFError, OSError):
        return None


def _fault(read, folder: Path) -> str:
    try:
        read(folder)
    except EvaeError as error:
        return _shown(error) if any(isinstance(cause, MemoryError) for cause in _causes(error)) else ""
    except BaseException as error:  # SystemExit too
        return _shown(error)
    return ""


def _causes(error):
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _shown(error: BaseException) -> str:
    """The type, the innermost place in evae, and all else; the first line tells one kind of fault from another."""
    places = [f for f in traceback.extract_tb(error.__traceback__) if f"{os.sep}evae{os.sep}" in f.filename]
    place = f"{Path(places[-1].filename).name}:{places[-1].lineno}" if places else "the test"
    return f"{type(error).__name__} at {place}\n" + "".join(traceback.format_exception(error))[-4000:]


def _most_memory() -> int:
    """Bytes of memory that this process has had at most."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
