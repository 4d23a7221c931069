"""An output that is there already: whether it is what is asked for."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from napari_volseg.cli.maps_file import (
    count_instances,
    read_facts,
    read_maps,
    read_thresholds,
)
from napari_volseg.errors import DataError
from napari_volseg.io import Source, expand_home, open_labels, parse_source
from napari_volseg.volume import Volume

__all__ = ["check_complete", "describe_complete"]

_REMEDY = "choose another -o, or --overwrite"


def check_complete(output: Path, image: Volume, source: str, model: Path) -> None:
    """Refuse to call an output complete that is something else.

    Parameters
    ----------
    output
        The file or Zarr store that is there.
    image, source, model
        What is to be predicted, where it is, and with what.

    Raises
    ------
    DataError
        If it is no prediction, or one of another image or with another model.
    """
    try:
        shape = read_maps(output).shape_ZYX
        instances = open_labels(str(Source(output, "instances", None))).shape
    except DataError as error:
        raise DataError(
            f"{output} is there already and is no whole prediction ({error}): {_REMEDY}"
        ) from None
    facts = read_facts(output)
    other = None
    if not shape == instances == image.shape_ZYX:
        other = f"of the shape {shape}, and {image.name} has {image.shape_ZYX}"
    elif "source" in facts and _real(str(facts["source"])) != _real(source):
        other = f"of {facts['source']}"
    elif os.path.realpath(str(facts.get("model", ""))) != os.path.realpath(model):
        other = f"with the model {facts.get('model', 'of someone else')}"
    if other:
        raise DataError(
            f"{output} is there already and is another prediction, {other}: {_REMEDY}"
        )


def describe_complete(output: Path) -> dict[str, Any]:
    """Return what `volseg predict` answers about an output, from what it holds."""
    labels = open_labels(str(Source(output, "instances", None)))
    return {
        "path": output,
        "n_instances": count_instances(labels),
        "voxel_size": read_maps(output).voxel_size,
        "model": read_facts(output)["model"],
        "instances": read_thresholds(output).model_dump(mode="json"),
        "message": "It was complete.",
    }


def _real(source: str) -> Source:
    """Return a source without links and detours in its path."""
    parsed = parse_source(source)
    return replace(parsed, path=Path(os.path.realpath(expand_home(parsed.path))))
