"""Which columns of a table hold images and labels."""

import json
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa

from evae.data.splits import words
from evae.errors import ConfigError, DataError

_LABELS = ("label", "labels", "fine_label", "class", "target", "category", "class_label", "class_name", "y")
# Words of columns that go with images and are none of the data set's own.
_BESIDE = frozenset(
    {"mask", "masks", "depth", "segmentation", "seg", "annotation", "conditioning", "condition", "thumbnail", "edges"}
)
_MAX_METADATA = 2**24  # bytes


def image_column(
    data: str, schema: pa.Schema, is_image: Callable[[str], bool], wanted: str | None = None
) -> tuple[str, str]:
    """The column of encoded images, and a note on the choice, "" where there is nothing to choose.

    A column of images is binary, or a struct with a field "bytes" (as datasets writes it). Of several, the metadata of
    datasets decides, then the names "image" and "img", then the first whose first value is an image.

    Args:
        data: as the user named it.
        schema: of the table.
        is_image: whether the first value of a column is an image.
        wanted: the user's choice.

    Raises:
        ConfigError: the wanted column holds no images.
        DataError: there is no column of images.
    """
    found = [field.name for field in schema if holds_images(field.type)]
    if wanted is not None:
        if wanted not in found:
            raise ConfigError(f"--image-column {wanted} of {data} is no column of images; {_named(found, schema)}")
        return wanted, f"images: column {wanted}, as --image-column says"
    if not found:
        raise DataError(
            f"--data {data} has no column of encoded images (binary, or a struct with a field 'bytes'); "
            f"its columns are {', '.join(schema.names)}"
        )
    named = [name for name in found if _feature(schema, name).get("_type") == "Image"] or found
    preferred = [name for name in ("image", "img") if name in named]
    images = preferred[:1] if preferred or len(named) == 1 else [name for name in named if is_image(name)]
    own = [name for name in images if not _BESIDE & set(words(name))]
    chosen = (own or images or named)[0]
    others = [name for name in found if name != chosen]
    return chosen, f"images: column {chosen}, not {', '.join(others)} (--image-column chooses)" if others else ""


def _named(found: Sequence[str], schema: pa.Schema) -> str:
    return f"choose of {', '.join(found)}" if found else f"its columns are {', '.join(schema.names)}"


def holds_images(column: pa.DataType) -> bool:
    """Whether a column of this type may hold encoded images."""
    types = pa.types
    if types.is_struct(column):
        return column.get_field_index("bytes") >= 0
    if types.is_dictionary(column):
        return holds_images(column.value_type)
    binary = (types.is_binary, types.is_large_binary, types.is_binary_view, types.is_fixed_size_binary)
    return any(is_kind(column) for is_kind in binary)


def label_column(schema: pa.Schema) -> tuple[str | None, str]:
    """The column of labels, if there is one, and a note on a column of this name that cannot be used."""
    lower = {name.lower(): name for name in reversed(schema.names)}
    present = [lower[name] for name in _LABELS if name in lower]
    usable = [name for name in present if label_kind(schema.field(name).type)]
    if usable:
        return usable[0], ""
    doubt = f"the column {present[0]} ({schema.field(present[0]).type}) is not used as labels" if present else ""
    return None, doubt if present and not holds_images(schema.field(present[0]).type) else ""


def label_kind(column: pa.DataType) -> str | None:
    """What labels of a column are; None where it can hold none."""
    types = pa.types
    if types.is_dictionary(column):
        return label_kind(column.value_type)
    kinds = {
        "whole numbers": (types.is_integer,),
        "numbers": (types.is_floating,),
        "truth values": (types.is_boolean,),
        "texts": (types.is_string, types.is_large_string, types.is_string_view),
    }
    return next((kind for kind, checks in kinds.items() if any(check(column) for check in checks)), None)


def class_names(schema: pa.Schema, column: str | None) -> tuple[str, ...]:
    """The names of classes that datasets keeps in the schema's metadata."""
    names = _feature(schema, column).get("names") if column else None
    return tuple(map(str, names)) if isinstance(names, list) else ()


def _feature(schema: pa.Schema, column: str) -> dict[str, Any]:
    """What datasets says of a column; empty where it says nothing that can be used."""
    content = (schema.metadata or {}).get(b"huggingface", b"{}")
    try:
        feature = json.loads(content)["info"]["features"][column] if len(content) <= _MAX_METADATA else {}
    except (ValueError, LookupError, TypeError, RecursionError):  # none, or of another form
        return {}
    return feature if isinstance(feature, dict) else {}
