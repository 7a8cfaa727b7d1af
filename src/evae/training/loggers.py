"""The loggers people use, as functions that take a line of metrics.jsonl and the step."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from hashlib import blake2b
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from evae.console import warn
from evae.errors import ConfigError, check_choice, first_line

LoggerName = Literal["tensorboard", "wandb", "mlflow", "trackio"]
Log = Callable[[dict[str, float], int], object]


def check_logger(name: LoggerName) -> None:
    """Raise ConfigError unless there is a logger of this name and it is installed."""
    check_choice("logger", name, _OPENERS)
    try:
        import_module(name)
    except ModuleNotFoundError as error:
        raise ConfigError(f"--logger {name} needs the extra: pip install 'evae[{name}]'") from error


def open_logger(name: LoggerName | None, out: Path, config: dict[str, Any]) -> AbstractContextManager[Log]:
    """The logger of a run, to be entered when training begins; each keeps its usual environment variables."""
    if name is None:
        return nullcontext(lambda line, step: None)
    return _forgiving(name, _OPENERS[name](out, config))


@contextmanager
def _forgiving(name: str, logger: AbstractContextManager[Log]) -> Iterator[Log]:
    """Whatever a logger raises stops a run that begins, with one sentence, and never one that is under way."""
    with ExitStack() as stack:
        try:
            log = stack.enter_context(logger)
        except Exception as error:
            raise ConfigError(f"--logger {name} does not start: {first_line(error)}") from error
        failed = False

        def tried(line: dict[str, float], step: int) -> None:
            nonlocal failed
            try:
                log(line, step)
            except Exception as error:
                if not failed:
                    warn(f"{name} does not take what is logged ({first_line(error)}); metrics.jsonl has all of it")
                failed = True

        yield tried


def _identity(out: Path) -> str:
    """The same for every part of a run, so that a resumed one goes on where it was."""
    return blake2b(str(out.resolve()).encode(), digest_size=8).hexdigest()


@contextmanager
def _tensorboard(out: Path, config: dict[str, Any]) -> Iterator[Log]:
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(out / "tensorboard") as writer:
        yield lambda line, step: [writer.add_scalar(name, value, step) for name, value in line.items()]


@contextmanager
def _wandb(out: Path, config: dict[str, Any]) -> Iterator[Log]:
    import wandb

    with wandb.init(project="evae", name=out.name, id=_identity(out), resume="allow", dir=out, config=config) as run:
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
