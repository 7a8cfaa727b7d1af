"""``evae audit``: unreadable files, duplicates, leaks between splits and outliers of a collection."""

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from evae import checks, figures
from evae.collection import duplicates
from evae.collection.files import Files, read_files
from evae.collection.outliers import LEAST, Judged, by_halves, by_run
from evae.console import console, warn
from evae.data.memory import Data, named
from evae.errors import ConfigError
from evae.files import write_atomically
from evae.numerics import resolve_device
from evae.outputs import check_output_folder, data_of, page_mark
from evae.reporting import charts, pages
from evae.rounding import counted
from evae.runs import RunFolder
from evae.runs.images import check_is_of_images, preprocessing
from evae.runs.preprocessing import Preprocessing

PAGE, TABLE = "audit.html", "audit.csv"
_COLUMNS = ["file", "split", "readable", "duplicate_of", "near_duplicate_of", "error", "p_value", "outlier"]
_SHOWN = 60  # images, or pairs, of a kind on the page
_SIDE = 96  # pixels a side of a picture on the page
_IMAGE_SIZE = 32


@dataclass(frozen=True)
class Audit:
    """What an audit found.

    Attributes:
        page, table: audit.html and audit.csv.
        files: number of files.
        unreadable, duplicates, near_duplicates, leaks, outliers: the files of each kind, by name; leaks are duplicates,
            exact or near, of a file of another split.
    """

    page: Path
    table: Path
    files: int
    unreadable: list[str]
    duplicates: list[str]
    near_duplicates: list[str]
    leaks: list[str]
    outliers: list[str]


class _Copy(NamedTuple):
    """A file and the one that it is a copy of, by index; the correlation of near duplicates, else None."""

    file: int
    of: int
    correlation: float | None


def audit(
    data: Data,
    out: Path,
    run: Path | None = None,
    false_alarms: float = 0.01,
    image_size: int | None = None,
    image_column: str | None = None,
    seed: int = 0,
    device: str = "auto",
    overwrite: bool = False,
) -> Audit:
    """Find unreadable files, exact and near duplicates, leaks between splits and outliers: a page and a table.

    The table has a row for each file: file, split, readable, duplicate_of, near_duplicate_of, error (mean squared error
    of the reconstruction), p_value, outlier. A p-value compares an image with others that did not train the model
    either: of images like the others at most the fraction of false alarms is called an outlier. Without a run, two
    small models are trained, each on a random half, and each judges the other half.

    Args:
        data: the collection: a folder of images, or as in evae train.
        out: folder for audit.html and audit.csv.
        run: a trained run whose model judges the images, compared with the run's hold-out images.
        false_alarms: nominal fraction of false alarms, the p-value up to which an image is an outlier.
        image_size: pixels a side at which images are compared and judged (default: 32); a run has its own.
        image_column: column of images of a table, where there are several.
        seed: seed of the halves and of the models.
        device: cpu, cuda or mps; auto: a GPU where there is one.
        overwrite: replace files of out also where they are not an audit by evae.

    Raises:
        DataError: there are no images that can be read.
        ConfigError: an option is not valid.
        RunError: the folder is not a run, or the output cannot be written or would replace other files.
    """
    data, out = named(data), Path(out)
    checks.fraction("false_alarms", false_alarms)
    checks.seed(seed)
    folder = None if run is None else RunFolder(Path(run))
    check_output_folder(out, [PAGE, TABLE], "audit", overwrite, data_of(folder, data))
    device_used = resolve_device(device)
    model, rule = None, Preprocessing((0, image_size or _IMAGE_SIZE, image_size or _IMAGE_SIZE))
    if folder is not None:
        if image_size is not None:
            raise ConfigError("--image-size is that of the run; leave out either it or --run")
        model = folder.model().to(device_used)
        check_is_of_images(folder, model, "audit")
        rule = preprocessing(folder, model)
    elif image_size not in (None, 16, 32, 64):
        raise ConfigError(f"--image-size must be 16, 32 or 64, not {image_size}")
    files = read_files(data, rule, image_column)
    copies = _copies(files)
    distinct = _distinct(files, copies)
    judged = None
    if model is not None and folder is not None:
        judged = by_run(folder, model, files.pixels, distinct)
    elif len(set(distinct.tolist())) < LEAST:
        warn(f"no outliers are sought: that takes at least {LEAST} different images; --run names a model")
    else:
        judged = by_halves(files.pixels, distinct, seed, device_used)
    rows = _rows(files, copies, judged, false_alarms)
    found = Audit(
        page=out / PAGE,
        table=out / TABLE,
        files=len(files.names),
        unreadable=[name for name, reason in zip(files.names, files.reasons, strict=True) if reason],
        duplicates=[files.names[copy.file] for copy in copies if copy.correlation is None],
        near_duplicates=[files.names[copy.file] for copy in copies if copy.correlation is not None],
        leaks=[files.names[copy.file] for copy in copies if _is_leak(files, copy)],
        outliers=_worst(files, judged, false_alarms),
    )
    write_atomically(found.table, _csv(rows))
    write_atomically(found.page, _page(files, copies, judged, found, false_alarms, folder))
    console.print(_summary(found), soft_wrap=True)
    return found


def _copies(files: Files) -> list[_Copy]:
    """Each file that is a copy of one before it, training files first."""
    count = len(files.names)
    preference = [0 if split in ("train", "") else 1 for split in files.splits]
    groups = duplicates.exact(files.digests)
    first = duplicates.representatives(count, groups, preference)
    copies = [_Copy(i, int(first[i]), None) for i in range(count) if first[i] != i]
    # Of a group of the same content one is compared with the others.
    alone = np.flatnonzero(first[files.readable] == files.readable)
    places = files.readable[alone]
    near = duplicates.near(files.pixels[alone])
    pairs = [(int(places[match.image]), int(places[match.other]), match.correlation) for match in near]
    like = duplicates.representatives(count, [(a, b) for a, b, _ in pairs], preference)
    correlations: dict[int, float] = {}
    for a, b, correlation in pairs:
        for one in (a, b):
            correlations[one] = max(correlation, correlations.get(one, 0.0))
    copies += [_Copy(i, int(like[i]), correlations[i]) for i in sorted(correlations) if like[i] != i]
    return copies


def _distinct(files: Files, copies: list[_Copy]) -> NDArray[np.int64]:
    """Of each readable image (M,) the one it is a copy of, or itself; by index among the readable ones."""
    place = {int(file): i for i, file in enumerate(files.readable)}
    own = np.arange(len(files.readable))
    pairs = [(place[copy.of], place[copy.file]) for copy in copies]
    return duplicates.representatives(len(own), pairs, np.zeros(len(own), int).tolist())


def _is_leak(files: Files, copy: _Copy) -> bool:
    splits = files.splits[copy.file], files.splits[copy.of]
    return all(splits) and splits[0] != splits[1]


def _rows(files: Files, copies: list[_Copy], judged: Judged | None, alpha: float) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [
        dict.fromkeys(_COLUMNS, "") | {"file": name, "split": split, "readable": not reason}
        for name, split, reason in zip(files.names, files.splits, files.reasons, strict=True)
    ]
    for copy in copies:
        column = "duplicate_of" if copy.correlation is None else "near_duplicate_of"
        rows[copy.file][column] = files.names[copy.of]
    if judged is not None:
        for i, file in enumerate(files.readable.tolist()):
            p = judged.p_values[i]
            rows[file] |= {"error": f"{judged.errors[i]:.6g}", "p_value": f"{p:.6g}", "outlier": bool(p <= alpha)}
    return rows


def _csv(rows: list[dict[str, Any]]) -> bytes:
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(
        {key: str(value).lower() if isinstance(value, bool) else value for key, value in row.items()} for row in rows
    )
    return file.getvalue().encode(errors="replace")


def _worst(files: Files, judged: Judged | None, alpha: float) -> list[str]:
    """The outliers, the most unusual first."""
    return [files.names[files.readable[i]] for i in _order(judged, alpha)] if judged is not None else []


def _order(judged: Judged, alpha: float) -> list[int]:
    order = np.lexsort((-judged.scores, judged.p_values))
    return [int(i) for i in order if judged.p_values[i] <= alpha]


def _summary(found: Audit) -> str:
    parts = [
        f"{len(found.unreadable):,} unreadable",
        f"{len(found.duplicates):,} exact and {len(found.near_duplicates):,} near duplicates",
        f"{len(found.leaks):,} of them across splits",
        f"{len(found.outliers):,} outliers",
    ]
    return f"{counted(found.files, 'file')}: {', '.join(parts)}; see {found.page}"


def _page(
    files: Files, copies: list[_Copy], judged: Judged | None, found: Audit, alpha: float, run: RunFolder | None
) -> str:
    leaks = [copy for copy in copies if _is_leak(files, copy)]
    others = [copy for copy in copies if not _is_leak(files, copy)]
    order = [] if judged is None else _order(judged, alpha)
    shown = [*leaks[:_SHOWN], *others[:_SHOWN]]
    wanted = {files.names[i] for copy in shown for i in (copy.file, copy.of)}
    wanted |= {files.names[files.readable[i]] for i in order[:_SHOWN]}
    pictures = {name: _picture(image) for name, image in files.pictures(wanted, _SIDE).items()}

    def pairs(of: list[_Copy]) -> list[dict[str, Any]]:
        return [
            {
                "file": files.names[copy.file],
                "of": files.names[copy.of],
                "splits": (files.splits[copy.file], files.splits[copy.of]),
                "correlation": copy.correlation,
                "pictures": (pictures[files.names[copy.file]], pictures[files.names[copy.of]]),
            }
            for copy in of[:_SHOWN]
        ]

    outliers = []
    if judged is not None and order:
        rebuilt = judged.rebuilt(np.array(order[:_SHOWN]))
        for i, image in zip(order[:_SHOWN], rebuilt, strict=True):
            name = files.names[files.readable[i]]
            outliers.append(
                {
                    "file": name,
                    "split": files.splits[files.readable[i]],
                    "p": judged.p_values[i],
                    "error": judged.errors[i],
                    "picture": pictures[name],
                    "rebuilt": _picture(image),
                }
            )
    unreadable = [(name, reason) for name, reason in zip(files.names, files.reasons, strict=True) if reason]
    splits = dict(zip(*np.unique([s for s in files.splits if s], return_counts=True), strict=True))
    return pages.render(
        "audit.html",
        generator=page_mark("audit"),
        title=f"Audit of {pages.data_name(files.source.name)}",
        found=found,
        splits={str(name): int(count) for name, count in splits.items()},
        unreadable=unreadable,
        leaks=pairs(leaks),
        others=pairs(others),
        leak_count=len(leaks),
        other_count=len(others),
        outliers=outliers,
        judged=judged,
        alpha=alpha,
        run=run,
        size=files.pixels.shape[-1],
        left_out=[str(entry) for entry in files.left_out],
        shown=_SHOWN,
    )


def _picture(pixels: NDArray[np.uint8]) -> charts.Picture:
    """An image (C, S, S) as a PNG file, small ones enlarged by a whole factor."""
    image = figures.to_image(figures.shown(pixels[None])[0].transpose(1, 2, 0))
    return charts.picture(figures.magnified(image, max(1, _SIDE // pixels.shape[-1])))
