"""Messages and progress for people, on standard error; results go to standard output."""

import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import IO, Any, NoReturn, cast

import rich.console
from rich._null_file import NULL_FILE
from rich.console import ConsoleOptions, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.segment import Segment

from evae.errors import printable

_SECONDS = 60  # between lines of progress


class Console(rich.console.Console):
    """A console that shows control characters of names and messages escaped, so that they do not act."""

    def on_broken_pipe(self) -> NoReturn:
        raise  # noqa: PLE0704  BrokenPipeError, which the command line ends with quietly

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=printable(segment.text, kept="\n"))

    def render_str(self, text: str, **options: Any) -> rich.text.Text:  # before columns are measured
        return super().render_str(printable(text, kept="\n\t"), **options)


class _Messages:
    """Standard error, as it is at the time; what cannot be written there is lost and stops no work."""

    def write(self, text: str) -> int:
        with suppress(OSError, ValueError):  # a full disk, or a reader that is gone; a closed stream
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            self._stream.flush()

    def isatty(self) -> bool:
        return bool(self._stream.isatty())

    @property
    def encoding(self) -> str:
        return str(self._stream.encoding)

    @property
    def _stream(self) -> Any:
        return getattr(sys.stderr, "rich_proxied_file", sys.stderr) or NULL_FILE


console = Console(file=cast(IO[str], _Messages()), highlight=False, markup=False)  # paths may look like markup


def warn(message: str) -> None:
    """Say what is amiss, and go on."""
    console.print("warning:", style="yellow", end=" ")
    console.print(message, soft_wrap=True)


class _LineProgress(Progress):
    """Where there is no terminal: a line a minute instead of a bar."""

    def __init__(self, *columns: TextColumn) -> None:
        super().__init__(disable=True)
        self._shown, self._told = columns, time.monotonic()

    def update(self, task_id: TaskID, **changes: Any) -> None:
        super().update(task_id, **changes)
        self._tell(task_id)

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        super().advance(task_id, advance)
        self._tell(task_id)

    def _tell(self, task_id: TaskID) -> None:
        if time.monotonic() - self._told < _SECONDS:
            return
        self._told = time.monotonic()
        task = next(task for task in self.tasks if task.id == task_id)
        total = "" if task.total is None else f" of {task.total:,.0f}"
        left = "" if task.time_remaining is None else f", {task.time_remaining / 60:.0f} minutes left"
        words = " ".join(str(column.render(task)) for column in self._shown)
        console.print(f"{task.description}: {task.completed:,.0f}{total}{left}  {words}".rstrip(), soft_wrap=True)


def progress(*columns: str) -> Progress:
    """A progress bar with a count, the time left and ``columns`` of task fields; without a terminal a line a minute."""
    texts = [TextColumn(column) for column in columns]
    if not console.is_terminal:
        return _LineProgress(*texts)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        *texts,
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )
