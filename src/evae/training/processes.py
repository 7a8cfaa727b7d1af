"""The processes of one machine: rank 0 starts the others, meets them on the loopback address, and ends with them."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lightning_fabric import Fabric
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from evae.console import console
from evae.training.ranks import StoppedElsewhereError

_HOST = "127.0.0.1"
_PARENT = "EVAE_RANK_ZERO"  # environment variable of the other ranks: the process that has started them
_GRACE = 10.0  # seconds in which a process notices by itself that another has gone
_FAILED = 2


@contextmanager
def launched(fabric: Fabric, processes: int, num_nodes: int) -> Iterator[None]:
    """Start the other processes, if nobody else has, and connect to them; none outlives another that was killed.

    Raises:
        StoppedElsewhereError: another process was killed.
    """
    environment = getattr(fabric.strategy, "cluster_environment", None)
    is_started = environment is None or environment.creates_processes_externally
    if processes == 1 or num_nodes > 1 or is_started:
        if processes > 1 and (parent := os.environ.get(_PARENT)):
            _end_with(int(parent))
        fabric.launch()
        yield
        return
    with _store() as port, _variables(_meeting(port, processes, fabric.device.type == "cpu")):
        children = _Children(processes - 1)
        patience = 0.5  # the others wait for this process, and have nothing to save
        try:
            fabric.launch()
            yield
            patience = _GRACE
        except (RuntimeError, StoppedElsewhereError) as error:
            if why := children.killed(1.0):
                raise StoppedElsewhereError(why) from error
            raise
        finally:
            children.end(patience)


@contextmanager
def _store() -> Iterator[int]:
    """The port of a store that only this machine can reach; torch, which would serve all, uses one that is there."""
    listener = socket.create_server((_HOST, 0))
    port = listener.getsockname()[1]
    descriptor = listener.detach()
    store = TCPStore(_HOST, port, None, True, wait_for_workers=False, multi_tenant=True, master_listen_fd=descriptor)
    try:
        yield port
    finally:
        del store


def _meeting(port: int, processes: int, is_cpu: bool) -> dict[str, str]:
    """The environment by which torch and Fabric let processes find each other."""
    variables = {"MASTER_ADDR": _HOST, "MASTER_PORT": str(port), "NODE_RANK": "0", "LOCAL_RANK": "0"}
    variables |= {"WORLD_SIZE": str(processes), _PARENT: str(os.getpid())}
    loopback = next((name for _, name in socket.if_nameindex() if name.startswith("lo")), None)
    if is_cpu and loopback is not None:
        variables["GLOO_SOCKET_IFNAME"] = loopback
    return variables


@contextmanager
def _variables(values: dict[str, str]) -> Iterator[None]:
    """Environment variables for a while."""
    before = {name: os.environ.get(name) for name in values}
    os.environ |= values
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


class _Children:
    """The other ranks, which run the same command; where one is killed, all end."""

    def __init__(self, count: int) -> None:
        own = {"TORCH_CPP_LOG_LEVEL": "ERROR"} | os.environ  # a lost connection gives no C++ stack
        self._processes = [
            subprocess.Popen(_command(), env=own | {"LOCAL_RANK": str(rank)}) for rank in range(1, count + 1)
        ]
        self._is_done = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def killed(self, wait: float = 0.0) -> str:
        """A sentence where one has ended by a signal or with an exit code, "" where none has until so many seconds."""
        until = time.monotonic() + wait
        while True:
            for rank, process in enumerate(self._processes, 1):
                if code := process.poll():
                    how = f"was killed by {_name(-code)}" if code < 0 else f"has ended with exit code {code}"
                    return f"rank {rank} {how}; what was saved is kept, and --resume auto continues from it"
            if time.monotonic() >= until:
                return ""
            time.sleep(0.05)

    def end(self, patience: float) -> None:
        """Wait so many seconds until all have ended, then end them."""
        self._is_done.set()
        for process in self._processes:
            with suppress(subprocess.TimeoutExpired):
                process.wait(patience)
        self._kill()

    def _watch(self) -> None:
        """End this process where it waits for one that was killed: some collectives do so for half an hour."""
        while not self._is_done.wait(0.5):
            if (why := self.killed()) and not self._is_done.wait(_GRACE):
                self._kill()
                console.print(f"evae: {why}", soft_wrap=True)
                os._exit(_FAILED)

    def _kill(self) -> None:
        for process in self._processes:
            if process.poll() is None:
                process.kill()
                process.wait()


def _command() -> list[str]:
    """This process's own."""
    import __main__

    if __main__.__spec__ is None:
        return [sys.executable, str(Path(sys.argv[0]).absolute()), *sys.argv[1:]]
    return [sys.executable, "-m", __main__.__spec__.name, *sys.argv[1:]]


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _end_with(parent: int) -> None:
    """Let this process end soon after its parent has, which may be killed without a chance to say so."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        time.sleep(_GRACE)
        os._exit(_FAILED)

    threading.Thread(target=watch, daemon=True).start()
