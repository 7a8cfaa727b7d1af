"""model.json: what the exported networks take and return, and how images or rows are prepared for them."""

from collections.abc import Iterable
from importlib.metadata import version
from typing import Any

from evae.columns import Columns
from evae.exporting.graphs import OPSET, TOLERANCE, Graph
from evae.models import VAE
from evae.outputs import mark
from evae.runs.preprocessing import LUMA, Preprocessing

_MEANINGS: dict[str, dict[str, Any]] = {
    "images": {"range": [0, 1]},
    "rows": {"units": "standardised, as under preprocessing"},
    "codes": {},
    "uniform": {"law": "independent draws of the uniform distribution on [0, 1)"},
    "normal": {"law": "independent draws of the standard normal distribution"},
}

_TRANSPARENCY = {
    False: "composited onto white",
    True: "alpha is the fourth channel; resized with colours multiplied by alpha; white where alpha is 0",
}


def record_of(
    model: VAE, graphs: Iterable[Graph], preparation: dict[str, Any], prior: str, on_sphere: bool
) -> dict[str, Any]:
    """The content of model.json.

    Args:
        model: the model.
        graphs: its networks.
        preparation: how its input is prepared: ``preprocessing_of`` or ``standardisation_of``.
        prior: what the draws are of, in words.
        on_sphere: whether codes are points of the unit sphere.
    """
    return {
        "generator": mark("export"),
        "version": 1,
        "evae": version("evae"),
        "model": model.class_path,
        "image_shape": list(model.image_shape),
        "codes_on_sphere": on_sphere,
        "prior": prior,
        "opset": OPSET,
        "tolerance": TOLERANCE,
        "networks": {graph.name: _network(graph) for graph in graphs},
        "preprocessing": preparation,
    }


def _network(graph: Graph) -> dict[str, Any]:
    name, shape = graph.output
    return {
        "file": f"{graph.name}.onnx",
        "bytes": len(graph.content),
        "inputs": [_port(name, shape) for name, shape in graph.inputs.items()],
        "outputs": [_port(name, shape)],
        "largest_difference_to_torch": graph.difference,
    }


def _port(name: str, shape: tuple[int, ...]) -> dict[str, Any]:
    return {"name": name, "type": "float32", "shape": ["batch", *shape], **_MEANINGS[name]}


def preprocessing_of(rule: Preprocessing) -> dict[str, Any]:
    """The steps from an image file to the encoder's input, in this order."""
    channels, size = rule.image_shape[0], rule.image_shape[-1]
    return {
        "orientation": "upright, as the EXIF orientation says",
        "colours": "converted to sRGB where an ICC profile is embedded",
        "transparency": _TRANSPARENCY[channels == 4],
        "byte_factor": 1 if rule.scaling is None else rule.scaling.bytes,
        "white_of_16_bits": 65535 if rule.scaling is None else rule.scaling.words,
        "crop": "the centre square" if rule.crop is None else f"the centre square of {rule.crop} pixels",
        "crop_pixels": rule.crop,
        "size": size,
        "resize": "bilinear, antialiased: the triangle filter, as wide as the reduction (Pillow's BILINEAR)",
        "channels": channels,
        "luma": [int(weight) for weight in LUMA],
        "divide_by": 255,
        "layout": "batch, channels, height, width",
    }


def standardisation_of(columns: Columns) -> dict[str, Any]:
    """The steps from a row in the data's units to the encoder's input, and back from the decoder's output."""
    return {
        "columns": list(columns.names),
        "mean": list(columns.mean),
        "deviation": list(columns.deviation),
        "encoder": "(x - mean)/deviation, in double precision",
        "decoder": "x·deviation + mean",
    }
