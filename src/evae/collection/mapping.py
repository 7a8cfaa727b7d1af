"""``evae map``: every image of a collection on a plane, on one page to look at."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from evae import checks, figures
from evae.collection import columns as column
from evae.collection.description import Describer, percentiles, reference_errors
from evae.collection.parts import Part, collection
from evae.collection.plane import Method, neighbours, place, purity, trustworthiness
from evae.collection.sprites import Sprites, side_for
from evae.console import console, warn
from evae.data import ImageOptions, to_float
from evae.data.labels import Label
from evae.data.labels import encode as encode_labels
from evae.data.memory import Data, named
from evae.errors import DataError
from evae.files import utf8, write_atomically
from evae.models import VAE
from evae.numerics import resolve_device, seeded
from evae.outputs import check_output, data_of, page_mark
from evae.reporting import pages
from evae.rounding import counted
from evae.runs import RunFolder
from evae.runs.images import check_is_of_images
from evae.settings import flat

_LEAST = 3  # images of a map
_NEAR = 12  # neighbours of an image on the page


@flat
def map(
    run_folder: Path,
    out: Path | None = None,
    data: Data | None = None,
    method: Method = "pca",
    columns: Path | None = None,
    limit: int = 50_000,
    images: ImageOptions = ImageOptions(),
    seed: int = 0,
    device: str = "auto",
    overwrite: bool = False,
) -> Path:
    """Write a page that shows every image of a collection on a plane, beside images that have similar codes.

    The page is one file, which needs neither the network nor the run: pan and zoom, colour by label, error or another
    column, search for files, and click an image for its reconstruction and its nearest neighbours among the codes.

    Args:
        run_folder: the folder of a trained run.
        out: the page; default: map.html in the run folder.
        data: images instead of the run's own; as in evae train.
        method: pca, the first two principal components of the codes; or umap, which needs evae[umap].
        columns: a CSV or Parquet file with more columns to colour by, for example an audit.csv; its column file or
            index tells which row is which image's.
        limit: at most this many images, chosen at random: with 50,000 grey ones the page has about 30 megabytes.
        images: how other images are read.
        seed: seed of that choice and of umap.
        device: cpu, cuda or mps; auto: a GPU where there is one.
        overwrite: replace the file that out names also where it is not a map by evae.

    Raises:
        RunError: the folder is not a run, or the page cannot be written or would replace another file.
        DataError: the images cannot be used with this model, or there are fewer than three.
        ConfigError: an option is not valid, or umap-learn is not installed.
    """
    run, data = RunFolder(run_folder), None if data is None else named(data)
    checks.one_of("method", method, get_args(Method))
    checks.whole_number("limit", limit, _LEAST)
    checks.seed(seed)
    default = run.path / "map.html"
    path = default if out is None else Path(out)
    check_output(path, "map", overwrite, default, data_of(run, data))
    model = run.model().to(resolve_device(device))
    check_is_of_images(run, model, "map", "; evae encode writes their codes")
    with seeded(seed):
        found = _gather(run, model, data, images, limit, seed)
    names = found.names
    if len(names) < _LEAST:
        raise DataError(f"a map needs at least {_LEAST} images, and there {_are(len(names))}")
    more = [] if columns is None else column.of_file(Path(columns), names)
    codes = np.concatenate(found.codes)
    plane = place(codes, method, seed)
    near, distances = neighbours(codes, _NEAR)
    classes, _ = encode_labels(found.labels, ())
    script = pages.text("map.js")
    source = data if data is not None else run.config()["data"] if run.is_run else ""
    page = pages.render(
        "map.html",
        generator=page_mark("map"),
        title=f"Map of {pages.data_name(source)}" if source else "Map",
        run=run,
        model=model,
        count=len(names),
        seen=found.seen,
        plane=plane,
        of_codes=purity(near, classes),
        of_plane=purity(neighbours(plane.points, _NEAR)[0], classes),
        trust=trustworthiness(codes, plane.points, seed),
        neighbours=near.shape[1],
        script=script,
        script_digest=pages.digest_of(script.encode()),
        data={
            "names": [utf8(name) for name in names],
            "points": column.packed(plane.points),
            "near": column.packed(near),
            "distances": column.packed(distances),
            "columns": [*found.columns(), *more],
            "images": found.originals.record(),
            "rebuilt": found.rebuilt.record(),
        },
    )
    write_atomically(path, page)
    console.print(f"map of {counted(len(names), 'image')} in {path}", soft_wrap=True)
    return path


def _are(count: int) -> str:
    return "is one" if count == 1 else f"are {count or 'none'}"


@dataclass
class _Gathered:
    """What the page shows of the images, besides their place."""

    originals: Sprites
    rebuilt: Sprites
    seen: int = 0  # images, with those beyond the limit
    names: list[str] = field(default_factory=list)
    splits: list[str | None] = field(default_factory=list)
    labels: list[Label] = field(default_factory=list)
    codes: list[NDArray[np.float32]] = field(default_factory=list)
    numbers: dict[str, list[NDArray[np.float64]]] = field(default_factory=dict)

    def columns(self) -> list[dict[str, Any]]:
        """Those of all maps: label, split, error, its percentile and rate, as far as they are known."""
        found = [column.classes("label", self.labels), column.classes("split", self.splits)]
        known = [c for c in found if c is not None and (c["name"] == "label" or len(c["names"]) > 1)]
        return [*known, *(column.numbers(name, np.concatenate(values)) for name, values in self.numbers.items())]


def _gather(run: RunFolder, model: VAE, data: str | None, images: ImageOptions, limit: int, seed: int) -> _Gathered:
    """Describe all images; where there are more than ``limit``, a random choice of them."""
    describer = Describer(model)
    reference = reference_errors(run, describer)
    found = collection(run, model, data, images)
    kept = np.ones(found.total, bool)
    if found.total > limit:
        warn(f"the map shows {limit:,} of {found.total:,} images, chosen at random; --limit shows more")
        kept[np.random.default_rng(seed).permutation(found.total)[limit:]] = False
    side = side_for(int(kept.sum()), model.image_shape[-1])
    gathered = _Gathered(Sprites(side), Sprites(side))
    for part in found.parts:
        chosen = np.flatnonzero(kept[gathered.seen : gathered.seen + len(part.names)])
        gathered.seen += len(part.names)
        if len(chosen):
            _add(gathered, _chosen(part, chosen), describer, reference)
    return gathered


def _chosen(part: Part, rows: NDArray[np.int64]) -> Part:
    names, splits, labels = (
        [part.names[i] for i in rows],
        [part.splits[i] for i in rows],
        [part.labels[i] for i in rows],
    )
    return Part(names, splits, labels, part.pixels[rows])


def _add(gathered: _Gathered, part: Part, describer: Describer, reference: NDArray[np.float64] | None) -> None:
    found = describer(to_float(part.pixels, describer.model.device))
    gathered.originals.add(part.pixels)
    gathered.rebuilt.add(figures.to_bytes(found.rebuilt).numpy())
    gathered.names += part.names
    gathered.splits += part.splits
    gathered.labels += part.labels
    gathered.codes.append(found.codes.float().numpy())
    errors = found.errors.double().numpy()
    numbers = {"error": errors}
    if reference is not None:
        numbers["error percentile"] = percentiles(errors, reference)
    if found.rates is not None:
        numbers["rate"] = found.rates.double().numpy()
    for name, values in numbers.items():
        gathered.numbers.setdefault(name, []).append(values)
