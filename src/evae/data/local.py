"""A folder or file of images, of tables of images, or of tables of numbers."""

from evae.data.folders import image_folder
from evae.data.rows import Source
from evae.data.tables import delimited, parquet
from evae.errors import DataError


def local(data: str) -> Source | None:
    """Images or tables of a folder: of both, the kind that holds more images; the other is left out, and named.

    Numbers beside images are not read: they tell something about the images.
    """
    images = image_folder(data)
    try:
        tables = parquet(data)
    except DataError:  # tables beside the images, of something else
        if images is None:
            raise
        tables = None
    if images is None:
        return tables or delimited(data)
    if tables is None or tables.numbers is not None:
        return images
    return tables if tables.count > images.count else images
