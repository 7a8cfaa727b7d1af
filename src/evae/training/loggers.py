"""Experiment loggers, as functions that take a line of metrics.jsonl and the step."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from hashlib import blake2b
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from evae.console import warn
from evae.errors import ConfigError, first_line

LoggerName = Literal["tensorboard", "wandb", "mlflow", "trackio"]
Log = Callable[[dict[str, float], int], object]


def check_logger(name: LoggerName) -> None:
    """Raise ConfigError unless the logger of this name is installed."""
    try:
        import_module(name)
    except ModuleNotFoundError as error:
        missing = f"the module {error.name} is missing; pip install 'evae[{name}]' installs it"
        raise ConfigError(f"--logger {name} cannot be used: {missing}") from error


def open_logger(name: LoggerName | None, out: Path, config: dict[str, Any]) -> AbstractContextManager[Log]:
    """The logger of a run, which reads its usual environment variables; after its first error it gets no more lines.

    Raises:
        ConfigError: it cannot be started as it is set up; where the disk is full, say, a warning tells it.
    """
    return nullcontext(lambda line, step: None) if name is None else _Logger(name, _OPENERS[name](out, config))


class _Logger:
    """Passes lines to a logger until it fails, of which a warning tells."""

    def __init__(self, name: str, opened: AbstractContextManager[Log]) -> None:
        self._name, self._opened, self._stack = name, opened, ExitStack()
        self._log: Log | None = None

    def __enter__(self) -> Log:
        try:
            self._log = self._stack.enter_context(self._opened)
        except OSError as error:
            self._drop(error)
        except Exception as error:
            raise ConfigError(f"--logger {self._name} failed to start: {first_line(error)}") from error
        return self._pass_on

    def __exit__(self, *error: Any) -> None:
        is_dropped = self._log is None
        try:
            self._stack.__exit__(*error)
        except Exception as failure:
            if not is_dropped:
                self._drop(failure)

    def _pass_on(self, line: dict[str, float], step: int) -> None:
        if self._log is not None:
            try:
                self._log(line, step)
            except Exception as error:
                self._drop(error)

    def _drop(self, error: Exception) -> None:
        self._log = None
        warn(f"logging to {self._name} failed ({first_line(error)}) and has ended; all metrics are in metrics.jsonl")


@contextmanager
def _tensorboard(out: Path, config: dict[str, Any]) -> Iterator[Log]:
    from torch.utils.tensorboard import SummaryWriter

    folder = out / "tensorboard"
    if folder.is_symlink():  # what is written would be outside of the run
        raise OSError(f"{folder} is a link")
    with _silent_threads("tensorboard"), SummaryWriter(folder) as writer:
        yield lambda line, step: [writer.add_scalar(name, value, step) for name, value in line.items()]


@contextmanager
def _silent_threads(package: str) -> Iterator[None]:
    """Show no tracebacks of a package's threads: those who use them get their errors."""
    before = threading.excepthook

    def show(failure: threading.ExceptHookArgs) -> None:
        if not type(failure.thread).__module__.startswith(package):
            before(failure)

    threading.excepthook = show
    try:
        yield
    finally:
        threading.excepthook = before


@contextmanager
def _wandb(out: Path, config: dict[str, Any]) -> Iterator[Log]:
    import wandb

    run_id = blake2b(str(out.resolve()).encode(), digest_size=8).hexdigest()  # a resumed run continues its log
    project = os.environ.get("WANDB_PROJECT") or "evae"
    with wandb.init(project=project, name=out.name, id=run_id, resume="allow", dir=out, config=config) as run:
        yield lambda line, step: run.log(line, step=step)


@contextmanager
def _mlflow(out: Path, config: dict[str, Any]) -> Iterator[Log]:
    import mlflow

    mlflow.set_experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME") or "evae")
    with mlflow.start_run(run_name=out.name):
        mlflow.log_dict(config, "config.yaml")
        yield lambda line, step: mlflow.log_metrics(line, step=step)


@contextmanager
def _trackio(out: Path, config: dict[str, Any]) -> Iterator[Log]:
    import trackio

    run = trackio.init(project="evae", name=out.name, config=config, resume="allow")
    try:
        yield lambda line, step: trackio.log(line, step=step)
    finally:
        run.finish()


_OPENERS: dict[str, Callable[[Path, dict[str, Any]], AbstractContextManager[Log]]] = {
    "tensorboard": _tensorboard,
    "wandb": _wandb,
    "mlflow": _mlflow,
    "trackio": _trackio,
}
