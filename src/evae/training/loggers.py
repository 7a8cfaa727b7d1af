"""The loggers people use, as functions that take a line of metrics.jsonl and the step."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal, get_args

from evae.console import warn
from evae.data.rows import first_line
from evae.errors import ConfigError

LoggerName = Literal["tensorboard", "wandb", "mlflow", "trackio"]
Log = Callable[[dict[str, float], int], object]


def open_logger(name: LoggerName | None, out: Path, config: dict[str, Any]) -> AbstractContextManager[Log]:
    """The logger of a run, to be entered when training begins; each keeps its usual environment variables.

    Raises:
        ConfigError: it is not installed, or there is none of this name.
    """
    if name is None:
        return nullcontext(lambda line, step: None)
    if name not in get_args(LoggerName):
        raise ConfigError(f"logger must be one of {', '.join(get_args(LoggerName))}, not {name!r}")
    try:
        logger = _OPENERS[name](out, config)
    except ModuleNotFoundError as error:
        raise ConfigError(f"--logger {name} needs the extra: pip install 'evae[{name}]'") from error
    return _forgiving(name, logger)


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


def _tensorboard(out: Path, config: dict[str, Any]) -> AbstractContextManager[Log]:
    from torch.utils.tensorboard import SummaryWriter

    @contextmanager
    def opened() -> Iterator[Log]:
        with SummaryWriter(out / "tensorboard") as writer:
            yield lambda line, step: [writer.add_scalar(name, value, step) for name, value in line.items()]

    return opened()


def _wandb(out: Path, config: dict[str, Any]) -> AbstractContextManager[Log]:
    import wandb

    @contextmanager
    def opened() -> Iterator[Log]:
        with wandb.init(
            project="evae", name=out.name, id=_identity(out), resume="allow", dir=out, config=config
        ) as run:
            yield lambda line, step: run.log(line, step=step)

    return opened()


def _mlflow(out: Path, config: dict[str, Any]) -> AbstractContextManager[Log]:
    import mlflow

    @contextmanager
    def opened() -> Iterator[Log]:
        mlflow.set_experiment("evae")
        with mlflow.start_run(run_name=out.name):
            mlflow.log_dict(config, "config.yaml")
            yield lambda line, step: mlflow.log_metrics(line, step=step)

    return opened()


def _trackio(out: Path, config: dict[str, Any]) -> AbstractContextManager[Log]:
    import trackio

    @contextmanager
    def opened() -> Iterator[Log]:
        run = trackio.init(project="evae", name=out.name, config=config, resume="allow")
        try:
            yield lambda line, step: trackio.log(line, step=step)
        finally:
            run.finish()

    return opened()


_OPENERS: dict[str, Callable[[Path, dict[str, Any]], AbstractContextManager[Log]]] = {
    "tensorboard": _tensorboard,
    "wandb": _wandb,
    "mlflow": _mlflow,
    "trackio": _trackio,
}
