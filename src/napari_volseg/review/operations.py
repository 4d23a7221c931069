"""What the process of a review can do; every operation takes arrays and options."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_volseg.config import InstancesConfig
from napari_volseg.review import reshaping

__all__ = ["OPERATIONS"]

Arrays = Mapping[str, NDArray[Any]]
Answer = tuple[dict[str, NDArray[Any]], dict[str, Any]]


def _table(arrays: Arrays, options: Mapping[str, Any]) -> Answer:
    from napari_volseg.review.table import instance_table

    voxel_size = _voxel_size(options)
    table = instance_table(arrays["labels"], arrays.get("maps"), voxel_size)
    return table, {}


def _split(arrays: Arrays, options: Mapping[str, Any]) -> Answer:
    inside = arrays["object"] != 0
    if "line" in arrays:
        markers = reshaping.mark_sides(
            inside, arrays["line"], int(options["axis"]), int(options["slice"])
        )
    else:
        markers = reshaping.mark_points(inside, arrays["points"])
    voxel_size = _voxel_size(options)
    pieces = reshaping.split(inside, markers, arrays.get("maps"), voxel_size)
    return {"pieces": pieces}, {}


def _grow(arrays: Arrays, options: Mapping[str, Any]) -> Answer:
    grown = reshaping.grow(
        arrays["object"] != 0,
        arrays["free"] != 0,
        arrays["maps"][0],
        float(options["threshold"]),
        int(options["reach"]),
    )
    return {"object": grown}, {}


def _shrink(arrays: Arrays, options: Mapping[str, Any]) -> Answer:
    shrunk = reshaping.shrink(
        arrays["object"] != 0, arrays["maps"][0], float(options["threshold"])
    )
    return {"object": shrunk}, {}


def _fill(arrays: Arrays, options: Mapping[str, Any]) -> Answer:
    return {"object": reshaping.fill(arrays["object"] != 0)}, {}


def _segment(arrays: Arrays, options: Mapping[str, Any]) -> Answer:
    config = InstancesConfig.model_validate(options["config"])
    pieces = reshaping.segment_again(arrays["maps"], arrays["free"] != 0, config)
    return {"pieces": pieces}, {}


def _evaluate(arrays: Arrays, options: Mapping[str, Any]) -> Answer:
    from napari_volseg.metrics import evaluate
    from napari_volseg.review.errors import find_errors, score_curves
    from napari_volseg.review.table import instance_table

    min_size = int(options["min_size"])
    annotated = arrays.get("annotated")
    sides = []
    for name in ("prediction", "truth"):
        labels = np.array(arrays[name])
        if annotated is not None:
            labels[annotated == 0] = 0
        table = instance_table(labels, None, _voxel_size(options))
        small = table["index"][table["voxels"] < min_size]
        if small.size:
            labels[np.isin(labels, small)] = 0
            table = {k: v[table["voxels"] >= min_size] for k, v in table.items()}
        sides.append((labels, table))
    (pred, pred_table), (truth, truth_table) = sides
    tables = pred_table, truth_table
    errors, kinds = find_errors(pred, truth, tables)
    mask = None if annotated is None else annotated != 0
    metrics = evaluate(arrays["prediction"], arrays["truth"], mask, min_size=min_size)
    curves = score_curves(pred, truth, tables)
    return {"kinds": kinds}, {"metrics": metrics, "errors": errors, "curves": curves}


def _meshes(arrays: Arrays, options: Mapping[str, Any]) -> Answer:
    from napari_volseg.review.surfaces import surface

    start = np.array(options["start"], float)
    vertices, faces = surface(arrays["object"] != 0, start, _voxel_size(options))
    return {"vertices": vertices, "faces": faces}, {}


def _corrections(arrays: Arrays, options: Mapping[str, Any]) -> Answer:
    from napari_volseg.review.corrections import make_corrections

    deleted = arrays.get("deleted")
    labels, background = make_corrections(
        arrays["labels"],
        options["accepted"],
        arrays.get("mask"),
        None if deleted is None else deleted != 0,
        _voxel_size(options),
    )
    return {"labels": labels}, {"background": background}


def _voxel_size(options: Mapping[str, Any]) -> tuple[float, float, float]:
    z, y, x = options["voxel_size"]
    return float(z), float(y), float(x)


OPERATIONS: Mapping[str, Callable[[Arrays, Mapping[str, Any]], Answer]] = {
    "table": _table,
    "split": _split,
    "grow": _grow,
    "shrink": _shrink,
    "fill": _fill,
    "segment": _segment,
    "evaluate": _evaluate,
    "mesh": _meshes,
    "corrections": _corrections,
}
