"""Messages and progress for people, on standard error; results go to standard output."""

import sys
from collections.abc import Iterable
from contextlib import suppress
from typing import IO, Any, NoReturn, cast

import rich.console
from rich._null_file import NULL_FILE
from rich.console import ConsoleOptions, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.segment import Segment

from evae.errors import printable


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


def progress(*columns: str) -> Progress:
    """A progress bar with a count, the time left and ``columns`` of task fields; drawn on terminals only."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        *(TextColumn(column) for column in columns),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
