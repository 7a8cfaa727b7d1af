"""Messages and progress for people, on standard error; results go to standard output."""

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

console = Console(stderr=True, highlight=False, markup=False)  # paths may look like markup


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
