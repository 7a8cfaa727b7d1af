"""Experiment loggers, as functions that take a line of metrics.jsonl and the step."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
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
        raise ConfigError(f"--logger {name} needs the extra: pip install 'evae[{name}]'") from error


@contextmanager
def open_logger(name: LoggerName | None, out: Path, config: dict[str, Any]) -> Iterator[Log]:
    """The logger of a run, which reads its usual environment variables; its errors stop a run at its start only."""
    if name is None:
        yield lambda line, step: None
        return
    with ExitStack() as stack:
        try:
            log = stack.enter_context(_OPENERS[name](out, config))
        except Exception as error:
            raise ConfigError(f"--logger {name} failed to start: {first_line(error)}") from error
        failed = False

        def tried(line: dict[str, float], step: int) -> None:
            nonlocal failed
            try:
                log(line, step)
            except Exception as error:
                if not failed:
                    warn(f"logging to {name} failed ({first_line(error)}); all metrics are in metrics.jsonl")
                failed = True

        yield tried


@contextmanager
def _tensorboard(out: Path, config: dict[str, Any]) -> Iterator[Log]:
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(out / "tensorboard") as writer:
        yield lambda line, step: [writer.add_scalar(name, value, step) for name, value in line.items()]


@contextmanager
def _wandb(out: Path, config: dict[str, Any]) -> Iterator[Log]:
    import wandb

    run_id = blake2b(str(out.resolve()).encode(), digest_size=8).hexdigest()  # a resumed run continues its log
    with wandb.init(project="evae", name=out.name, id=run_id, resume="allow", dir=out, config=config) as run:
        yield lambda line, step: run.log(line, step=step)


@contextmanager
def _mlflow(out: Path, config: dict[str, Any]) -> Iterator[Log]:
    import mlflow

    mlflow.set_experiment("evae")
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
