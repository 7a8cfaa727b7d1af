"""The table of a benchmark, from the folders of its cells alone."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from itertools import chain
from pathlib import Path

import numpy as np

from evae.benchmark.cell import CellFolder, folder_of
from evae.benchmark.cells import Cell
from evae.benchmark.spec import SAME, Published, Spec, listed, matching
from evae.benchmark.verdicts import RULE, sign_test, told, verdict
from evae.errors import RunError
from evae.metrics.legend import legend
from evae.reporting.pages import data_name
from evae.reporting.ranking import LEVEL, Result, Verdict, best, disagreement, incomparable, significant
from evae.reporting.tables import Cell as Text
from evae.reporting.tables import Grid
from evae.rounding import counted, with_error
from evae.runs import RunFolder
from evae.runs.evaluation import Evaluation, Number, read_evaluation

_SEEDS = (
    "± is the standard deviation over seeds, whose number is in brackets; of one seed it is the standard error over "
    "images."
)


@dataclass(frozen=True)
class Measured:
    """A cell and what its folder holds: its evaluation, or why there is none."""

    cell: Cell
    folder: CellFolder
    evaluation: Evaluation | None
    problem: str = ""


@dataclass(frozen=True)
class Entry:
    """The cells that share a place in the table: they differ in ``over`` alone."""

    key: tuple[str, ...]
    cells: Sequence[Measured]

    def result(self, metric: str) -> Result | None:
        """A metric over the cells that have it; None: none has."""
        evaluations = [m.evaluation for m in self.cells if m.evaluation is not None and m.evaluation.number(metric)]
        numbers = [number for e in evaluations if (number := e.number(metric)) is not None]
        if not numbers:
            return None
        images = [values for e in evaluations if (values := e.per_image(metric)) is not None]
        return Result(numbers, np.mean(images, axis=0) if len(images) == len(numbers) else None)


class BenchmarkTable:
    """All numbers of a benchmark, arranged as its spec says.

    Args:
        spec: the spec.
        cells: its cells.
        out: the results folder.
    """

    def __init__(self, spec: Spec, cells: Sequence[Cell], out: Path) -> None:
        self.spec = spec
        self.rows, self.by = spec.rows, listed(spec.table.by)
        groups: dict[tuple[str, ...], list[Cell]] = {}
        for cell in cells:
            groups.setdefault(tuple(cell.value(setting) for setting in (*self.rows, *self.by)), []).append(cell)
        # Values of each image are for tests where a row has one seed; they are much more to read.
        is_single = any(len(group) == 1 for group in groups.values())
        self.entries = [
            Entry(key, [_measured(cell, folder_of(out, cell), is_single) for cell in group])
            for key, group in groups.items()
        ]
        self.measured = [measured for entry in self.entries for measured in entry.cells]
        numbers = (m.evaluation.numbers for m in self.measured if m.evaluation is not None)
        self.numbers = {number.name: number for number in chain.from_iterable(numbers)}
        self.metrics = [_metric(name, self.numbers) for name in spec.table.columns]

    def row_of(self, entry: Entry) -> str:
        """The name of an entry's row."""
        return ", ".join(filter(None, entry.key[: len(self.rows)]))

    def column_of(self, entry: Entry) -> str:
        """The values of ``by`` of an entry, "" where the table has none."""
        return ", ".join(filter(None, entry.key[len(self.rows) :]))

    def grid(self) -> tuple[Grid, list[str]]:
        """The table with the best numbers in bold, and the notes below it."""
        bold, ranking = self._ranked()
        placed = {(self.row_of(entry), self.column_of(entry)): entry for entry in self.entries}
        names = list(dict.fromkeys(row for row, _ in placed))
        columns: dict[str, list[Text]] = {}
        for by in dict.fromkeys(by for _, by in placed):
            for metric in self.metrics:
                entries = [placed.get((row, by)) for row in names]
                title = f"{by}: {self._title(metric)}" if by else self._title(metric)
                columns[title] = [
                    Text(
                        "" if entry is None else _shown(entry, metric),
                        entry is not None and (entry.key, metric) in bold,
                    )
                    for entry in entries
                ]
                columns |= self._beside(title, by, metric, dict(zip(names, entries, strict=True)))
        rows = [[Text(name), *rest] for name, *rest in zip(names, *columns.values(), strict=True)]
        return Grid([", ".join(self.rows) or "benchmark", *columns], rows), self._notes() + ranking

    def _title(self, metric: str) -> str:
        return self.numbers[metric].title if metric in self.numbers else metric

    def _beside(self, title: str, by: str, metric: str, entries: Mapping[str, Entry | None]) -> dict[str, list[Text]]:
        """The columns of published figures and verdicts; none where nothing was published."""
        columns: dict[str, list[Text]] = {}
        for number, published in enumerate(self._published(metric), start=1):
            figures = {row: published.figure(row, by) for row in entries}
            if not any(figures.values()):
                continue
            which = f" {number}" if number > 1 else ""
            shown, verdicts = [], []
            for row, entry in entries.items():
                figure = figures[row]
                shown.append(Text("" if figure is None else _figure(*figure)))
                ours = None if entry is None else entry.result(metric)
                verdicts.append(Text("" if figure is None else verdict(ours, figure, published)))
            columns |= {f"{title} published{which}": shown, f"{title} verdict{which}": verdicts}
        return columns

    def _published(self, metric: str) -> list[Published]:
        return [entry for entry in self.spec.published if _metric(entry.metric, self.numbers) == metric]

    def _ranked(self) -> tuple[set[tuple[tuple[str, ...], str]], list[str]]:
        """The numbers that are better than all they are compared with, and how that was tested."""
        settings = [*self.rows, *self.by]
        compared = self.rows if self.spec.table.compare is None else listed(self.spec.table.compare)
        groups: dict[tuple[str, ...], list[Entry]] = {}
        for entry in self.entries:
            rest = tuple(v for s, v in zip(settings, entry.key, strict=True) if s not in compared)
            groups.setdefault(rest, []).append(entry)
        verdicts: dict[str, Verdict] = {}
        places: dict[str, tuple[tuple[str, ...], str]] = {}
        notes: list[str] = []
        for group in groups.values():
            different, reasons = _comparable(group)
            notes += [different] if different else []
            notes += [
                f"Not ranked: {metric}; {reason}." for metric, reason in reasons.items() if metric in self.metrics
            ]
            for metric in [] if different else [metric for metric in self.metrics if metric not in reasons]:
                if (found := best([entry.result(metric) for entry in group])) is not None:
                    place = group[found.row].key, metric
                    verdicts[str(place)], places[str(place)] = found, place
        tests = ", ".join(dict.fromkeys(chain.from_iterable(verdict.tests for verdict in verdicts.values())))
        if tests:
            notes.append(
                f"Bold: better than every other {' and '.join(compared) or 'row'} of the same "
                f"{_others(settings, compared)}. "
                f"Two-sided tests: {tests}; Holm's correction over {counted(len(verdicts), 'comparison')}, "
                f"family-wise error rate {LEVEL:.0%}."
                + (" Tests over images compare these weights, not other seeds." if "images" in tests else "")
            )
        return {places[name] for name in significant(verdicts)}, list(dict.fromkeys(notes))

    def _notes(self) -> list[str]:
        notes = [_SEEDS, legend([self.numbers[m] for m in self.metrics if m in self.numbers])]
        missing = [metric for metric in self.metrics if metric not in self.numbers]
        if missing and self.numbers:
            notes.append(f"Not measured in any cell: {', '.join(missing)}; the cells have {', '.join(self.numbers)}.")
        notes += self._published_notes()
        notes += [self._claim(i) for i in range(len(self.spec.claims))] if self.numbers else []
        return [note for note in [*notes, *self._data_notes(), *self._state_notes()] if note]

    def _published_notes(self) -> list[str]:
        notes = []
        for entry in self.spec.published:
            missing = [name for name in SAME if name not in entry.same]
            reason = f"; not known to be the published ones: {', '.join(missing)}" if missing else ""
            notes.append(f"Published {entry.metric}: {entry.source}; {entry.protocol}{reason}.")
        return [*notes, RULE] if notes else []

    def _claim(self, index: int) -> str:
        claim = self.spec.claims[index]
        settings = [*self.rows, *self.by]
        place, metric = settings.index(claim.of), _metric(claim.metric, self.numbers)
        values = self.spec.axes[claim.of]
        sides: list[dict[tuple[str, ...], float]] = []
        for value in (claim.winner, claim.loser):
            named = matching(value, values)
            own = [entry for entry in self.entries if entry.key[place] == named]
            results = {e.key[:place] + e.key[place + 1 :]: e.result(metric) for e in own}
            sides.append({key: float(r.seeds.mean()) for key, r in results.items() if r is not None})
        pairs = [(sides[0][key], sides[1][key]) for key in sides[0] if key in sides[1]]
        return told(claim, metric, sign_test(pairs, claim.better))

    def _data_notes(self) -> list[str]:
        """Where named images were, if not where their name says."""
        return [f"Images: {name} is {data_name(place)}." for name, place in self.spec.data.items()]

    def _state_notes(self) -> list[str]:
        finished = sum(m.evaluation is not None for m in self.measured)
        notes = [] if finished == len(self.measured) else [f"{finished} of {len(self.measured)} cells are finished."]
        notes += [f"{m.cell.name}: {m.problem}." for m in self.measured if m.problem]
        now, versions = version("evae"), dict[str, int]()
        for measured in self.measured:
            record = measured.folder.record if measured.evaluation is not None else None
            if record is not None and record.evae != now:
                versions[record.evae] = versions.get(record.evae, 0) + 1
        return notes + [
            f"{counted(count, 'cell')} computed by evae {other}, not {now}; delete their folders to compute them again."
            for other, count in versions.items()
        ]

    def csv(self) -> str:
        """A line for each cell: its settings, and unrounded numbers, each followed by its standard error."""
        settings = list(dict.fromkeys([*self.rows, *self.by, *listed(self.spec.table.over)]))
        names = ["cell", "state", *settings, *(n for m in self.numbers for n in (m, f"{m} standard error"))]
        writer = csv.DictWriter(file := io.StringIO(), names, lineterminator="\n")
        writer.writeheader()
        for measured in self.measured:
            numbers: list[Number] = measured.evaluation.numbers if measured.evaluation else []
            line = {setting: measured.cell.value(setting) for setting in settings}
            line |= {"cell": measured.cell.name, "state": measured.folder.state if not numbers else "finished"}
            values = {number.name: number.value for number in numbers}
            errors = {f"{number.name} standard error": number.error for number in numbers}
            writer.writerow(line | values | errors)
        return file.getvalue()


def _measured(cell: Cell, folder: CellFolder, per_image: bool) -> Measured:
    try:
        evaluation = read_evaluation(RunFolder(folder.run), per_image=per_image)
    except RunError as error:
        return Measured(cell, folder, None, str(error))
    if evaluation is not None:
        return Measured(cell, folder, evaluation if per_image else replace(evaluation, values={}))
    why = folder.why
    return Measured(cell, folder, None, f"failed: {why}" if why else "")


def _metric(name: str, known: Mapping[str, Number]) -> str:
    """The metric that a name means: its own, or the first whose name ends with it after a colon."""
    return name if name in known else next((metric for metric in known if metric.endswith(f": {name}")), name)


def _shown(entry: Entry, metric: str) -> str:
    """A number of the table: mean ± sd (number of seeds)."""
    result = entry.result(metric)
    if result is None:
        return "failed" if all(measured.problem for measured in entry.cells) else ""
    count, planned = len(result.numbers), len(entry.cells)
    return f"{result} ({count})" if count == planned else f"{result} ({count} of {planned})"


def _figure(mean: float, sd: float | None) -> str:
    return f"{mean:g}" if sd is None else with_error(mean, sd, digits=2)


def _comparable(group: Sequence[Entry]) -> tuple[str | None, dict[str, str]]:
    """Why nothing is marked in a group, if that is so; and the metrics that cannot be compared, with the reasons."""
    cells = [m for entry in group for m in entry.cells if m.evaluation is not None]
    evaluations = {m.cell.name: m.evaluation for m in cells if m.evaluation is not None}
    if len(group) < 2 or not evaluations:
        return None, {}
    likelihoods = [str(m.cell.train["model"]["init_args"].get("likelihood", "bernoulli")) for m in cells]
    different = disagreement(evaluations)
    return different, {} if different else incomparable(list(evaluations.values()), likelihoods)


def _others(settings: Sequence[str], compared: Sequence[str]) -> str:
    return " and ".join(setting for setting in settings if setting not in compared) or "table"
