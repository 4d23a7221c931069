"""An output that is there already: whether it is what is asked for."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from napari_volseg.cli.maps_file import (
    count_instances,
    read_facts,
    read_maps,
    read_thresholds,
)
from napari_volseg.config import InferenceConfig, apply_overrides, build_config
from napari_volseg.errors import DataError
from napari_volseg.io import Source, expand_home, open_labels, parse_source
from napari_volseg.volume import Volume

__all__ = ["check_complete", "check_settings", "describe_complete"]

_REMEDY = "choose another -o, or --overwrite"
_ONLY_SPEED = {"batch_size", "memory_gb"}
"""Settings that change how fast maps are made, not the maps."""


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
        maps = read_maps(output)
        instances = open_labels(str(Source(output, "instances", None))).shape
    except DataError as error:
        raise DataError(
            f"{output} is there already and is no whole prediction ({error}): {_REMEDY}"
        ) from None
    facts = read_facts(output)
    other = None
    if not maps.shape_ZYX == instances == image.shape_ZYX:
        other = f"of the shape {maps.shape_ZYX}, and {image.name} has {image.shape_ZYX}"
    elif not np.allclose(maps.voxel_size, image.voxel_size):
        sizes = f"{maps.voxel_size} nm, and those of {image.name} {image.voxel_size}"
        other = f"of voxels of {sizes}"
    elif "source" in facts and _real(str(facts["source"])) != _real(source):
        other = f"of {facts['source']}"
    elif os.path.realpath(str(facts.get("model", ""))) != os.path.realpath(model):
        other = f"with the model {facts.get('model', 'of someone else')}"
    if other:
        raise DataError(
            f"{output} is there already and is another prediction, {other}: {_REMEDY}"
        )


def check_settings(
    output: Path, inference: InferenceConfig, mask: str | None, settings: Sequence[str]
) -> None:
    """Refuse to call an output complete that was made in another way.

    Parameters
    ----------
    output
        A whole prediction.
    inference, mask
        What is asked for now; compared where the output says how it was made.
    settings
        Those of the command line. Thresholds that they do not name may be others
        by now, because instances are segmented again.

    Raises
    ------
    DataError
        If it must be predicted, or segmented, again.
    """
    facts = read_facts(output)
    if "inference" in facts:
        tree = {"inference": facts["inference"]}
        where = f"the settings stored in {output}"
        old = build_config(tree, where=where).inference
        is_other = old.model_dump(exclude=_ONLY_SPEED) != inference.model_dump(
            exclude=_ONLY_SPEED
        )
        old_mask = facts.get("mask")
        if is_other or (old_mask and _real(old_mask)) != (mask and _real(mask)):
            what = "other settings of inference" if is_other else "another mask"
            raise DataError(
                f"{output} is there already and was predicted with {what}: {_REMEDY}"
            )
    thresholds = [text for text in settings if text.startswith("instances.")]
    made_with = read_thresholds(output)
    tree = {"instances": made_with.model_dump(mode="json")}
    asked = build_config(apply_overrides(tree, thresholds), where="the command line")
    if asked.instances != made_with:
        raise DataError(
            f"{output} is there already with other instances: 'volseg segment {output} "
            f"{' '.join(thresholds)}' makes those from its maps"
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
