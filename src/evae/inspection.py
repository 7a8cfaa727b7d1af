"""``evae inspect``: what a data set holds and how a model would see it, before any training."""

from dataclasses import asdict
from pathlib import Path

import numpy as np

from evae import figures
from evae.columns import Columns
from evae.console import console
from evae.data import ImageOptions, Store, open_store, to_float
from evae.data.memory import Data, named
from evae.outputs import check_output, data_of, mark
from evae.rounding import counted
from evae.settings import flat

_SHOWN, _COLUMNS = 64, 8  # images of a contact sheet


@flat
def inspect(
    data: Data,
    out: Path = Path("contact-sheet.png"),
    images: ImageOptions = ImageOptions(),
    overwrite: bool = False,
) -> Store:
    """Print the account of a data set, as evae train does, and draw 64 of its images as a model will see them.

    The images are spread evenly over the training images. They are decoded to the cache, where evae train finds them.
    Of rows of numbers it draws histograms of at most 12 columns, of training and of hold-out rows.

    Args:
        data: as for evae train.
        out: the contact sheet, an image file.
        images: how images are read.
        overwrite: replace the file that out names also where it is not a contact sheet by evae.

    Returns:
        The images; ``store.account`` is the account.

    Raises:
        DataError: the images cannot be used.
        ConfigError: an option is not valid.
        RunError: the contact sheet cannot be written or would replace another file.
    """
    out, data = Path(out), named(data)
    figures.check_grid(out, _SHOWN, (3, 96, 96), _COLUMNS)
    check_output(out, "contact sheet", overwrite, data=data_of(None, data))
    store = open_store(data, **asdict(images), show_account=True)
    count = len(store.train)
    if store.columns is not None:
        _draw_columns(store, store.columns, out)
        return store
    rows = np.unique(np.linspace(0, count - 1, min(_SHOWN, count)).round().astype(np.int64))
    figures.check_grid(out, _SHOWN, store.image_shape, _COLUMNS)
    sheet = figures.image_grid(to_float(store.train.read(rows)), _COLUMNS)
    figures.save_image(figures.enlarged(sheet, store.image_shape[-1]), out, mark("contact sheet"))
    channels, height, width = store.image_shape
    kind = f"{figures.kind(channels)}, {width}x{height} pixels"
    console.print(f"{len(rows)} of {count:,} training images, {kind}, in {out}", soft_wrap=True)
    return store


def _draw_columns(store: Store, columns: Columns, out: Path) -> None:
    """Histograms of training and hold-out rows."""
    from evae.reporting.row_charts import distributions  # matplotlib, which images do not need

    sets = {"training rows": store.train, "hold-out rows": store.holdout}
    values = {name: columns.restore(split.read(slice(0, len(split)))) for name, split in sets.items()}
    picture = distributions(values, columns)
    figures.save_png(picture.png, out, mark("contact sheet"))
    console.print(f"histograms of {counted(len(columns), 'column')}, at most 12 of them, in {out}", soft_wrap=True)
