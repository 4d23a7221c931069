"""The file of a prediction: maps, instances and the thresholds between them."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from napari_volseg.config import InferenceConfig, InstancesConfig, build_config
from napari_volseg.errors import DataError
from napari_volseg.geometry import iter_boxes
from napari_volseg.io import (
    Source,
    atomic_path,
    open_volume,
    write_hdf5,
    write_json,
    write_volume_zarr,
    writing,
)
from napari_volseg.io.failures import refusing
from napari_volseg.io.hdf5_writing import add_dataset
from napari_volseg.volume import ArrayLike, Volume, VoxelSize

__all__ = [
    "ENDINGS",
    "check_replaceable",
    "count_instances",
    "is_handed_over",
    "read_facts",
    "read_maps",
    "read_thresholds",
    "replace_instances",
    "take_back",
    "write_maps_file",
]

_ATTRIBUTE = "volseg"
ENDINGS = (".h5", ".zarr")
_HDF5 = {".h5", ".hdf5"}
_GROUP = "output.zarr"
"""Folder in a job where its arrays become a Zarr group."""
_NODE = "zarr.json"
_ARRAYS = ("maps", "instances")


def write_maps_file(
    path: Path,
    job: Path,
    voxel_size: VoxelSize,
    *,
    model: Path,
    source: str,
    instances: InstancesConfig,
    inference: InferenceConfig,
    mask: str | None,
) -> int:
    """Turn the folder of a finished prediction into one file or Zarr store.

    Parameters
    ----------
    path
        An ``.h5`` file or ``.zarr`` folder; takes the place of what is there.
    job
        Folder with ``maps.zarr`` and ``instances.zarr``, which are moved away
        for a Zarr output.
    model, source, instances, inference, mask
        Written down, so that `volseg segment` can start from the thresholds, and
        `--resume` knows what is complete.

    Returns
    -------
    int
        Number of instances.
    """
    maps = open_volume(str(job / "maps.zarr"), voxel_size=voxel_size).data
    labels = open_volume(str(job / "instances.zarr"), voxel_size=voxel_size).data
    n_instances = count_instances(labels)
    facts = {
        "model": str(model),
        "source": source,
        "instances": instances.model_dump(mode="json"),
        "inference": inference.model_dump(mode="json"),
        "mask": mask,
    }
    if path.suffix.lower() in _HDF5:
        arrays = {"maps": maps, "instances": labels}
        attrs = {_ATTRIBUTE: json.dumps(facts)}
        # In the job, where nothing stays when this process is killed.
        write_hdf5(path, arrays, voxel_size, attrs, folder=job)
    else:
        _write_zarr(path, job, facts)
    return n_instances


def read_maps(path: Path) -> Volume:
    """Return the stored maps with axes CZYX: mask, boundary, distance.

    Raises
    ------
    DataError
        If the file has no such maps.
    """
    maps = open_volume(str(Source(path, "maps", None)))
    if maps.n_channels != 3 or np.dtype(maps.data.dtype) != np.uint8:
        raise DataError(
            f"{path}: 'maps' must be uint8 with 3 channels (mask, boundary, distance), "
            f"as 'volseg predict' writes it; it is {maps.data.dtype} with "
            f"{maps.n_channels}"
        )
    return maps


def read_facts(path: Path) -> dict[str, Any]:
    """Return what was written down of a prediction; empty when nothing was."""
    try:
        if path.is_dir():
            node = json.loads((path / _NODE).read_text("utf-8"))
            return _old_facts(node["attributes"][_ATTRIBUTE])
        with h5py.File(path, "r") as file:
            return _old_facts(file.attrs[_ATTRIBUTE])
    except (OSError, KeyError, ValueError, TypeError):
        return {}


def read_thresholds(path: Path) -> InstancesConfig:
    """Return the thresholds that the stored instances were made with."""
    facts = read_facts(path)
    if "instances" not in facts:
        return InstancesConfig()
    tree = {"instances": facts["instances"]}
    return build_config(tree, where=f"the thresholds stored in {path}").instances


def check_replaceable(path: Path) -> None:
    """Refuse a file whose instances cannot be replaced, before any work is done.

    Raises
    ------
    DataError
        If it is a Zarr group of another version, or a damaged one.
    """
    if path.is_dir():
        _read_group(path)


def replace_instances(
    path: Path,
    labels_ZYX: ArrayLike,
    voxel_size: VoxelSize,
    instances: InstancesConfig,
    place: Path,
) -> None:
    """Write new instances beside the maps, atomically; all else in the file stays.

    Lazy ones are copied block by block, into a folder on the same disk at first.
    """
    path = Path(os.path.realpath(path))  # a link to it stays one
    if path.is_dir():
        _replace_in_zarr(path, labels_ZYX, voxel_size, instances, place)
        return
    with atomic_path(path, place) as temporary:
        shutil.copyfile(path, temporary)
        with h5py.File(temporary, "r+") as file:
            if "instances" in file:
                del file["instances"]
            add_dataset(file, "instances", labels_ZYX, voxel_size)
            facts = _old_facts(file.attrs.get(_ATTRIBUTE))
            facts["instances"] = instances.model_dump(mode="json")
            file.attrs[_ATTRIBUTE] = json.dumps(facts)


def _write_zarr(path: Path, job: Path, facts: dict[str, Any]) -> None:
    group = job / _GROUP
    with writing(group):
        group.mkdir(mode=0o700, exist_ok=True)
        _write_group(group, {}, facts)
        for name in _ARRAYS:
            (job / f"{name}.zarr").rename(group / name)
        with tempfile.TemporaryDirectory(prefix=".volseg-", dir=path.parent) as place:
            _swap(group, path, Path(place) / "old")


def take_back(job: Path) -> None:
    """Give a job its arrays back when `write_maps_file` was killed or failed."""
    group = job / _GROUP
    for name in _ARRAYS:
        with writing(group), suppress(FileNotFoundError):
            (group / name).rename(job / f"{name}.zarr")
    shutil.rmtree(group, ignore_errors=True)


def is_handed_over(job: Path) -> bool:
    """Return whether the arrays of a finished job have become the output."""
    is_prepared = (job / "blocks" / "plan.json").is_file()
    return is_prepared and not any((job / n).exists() for n in ("maps.zarr", _GROUP))


def _replace_in_zarr(
    path: Path,
    labels_ZYX: ArrayLike,
    voxel_size: VoxelSize,
    instances: InstancesConfig,
    place: Path,
) -> None:
    node = _read_group(path)
    group = place / "new.zarr"
    write_volume_zarr(group, {"instances": labels_ZYX}, voxel_size)
    _swap(group / "instances", path / "instances", place / "old")
    facts = _old_facts(node["attributes"].get(_ATTRIBUTE))
    facts["instances"] = instances.model_dump(mode="json")
    _write_group(path, node, facts)


def _read_group(path: Path) -> dict[str, Any]:
    """Return what a Zarr group says of itself."""
    file = path / _NODE
    if not file.is_file():
        raise DataError(
            f"{path} has no {_NODE}, as in version 2 of Zarr, so its instances cannot "
            "be replaced: predict again with -o OUT.zarr or -o OUT.h5"
        )
    with refusing(str(file)):
        node = dict(json.loads(file.read_text("utf-8")))
        return {**node, "attributes": dict(node.get("attributes", {}))}


def _write_group(group: Path, node: dict[str, Any], facts: dict[str, Any]) -> None:
    """Write the facts into a group; its other attributes stay."""
    attributes = {**node.get("attributes", {}), _ATTRIBUTE: facts}
    new = {"zarr_format": 3, "node_type": "group", **node, "attributes": attributes}
    new.pop("consolidated_metadata", None)  # a copy of what its arrays said before
    write_json(group / _NODE, new)


def _swap(new: Path, target: Path, old: Path) -> None:
    """Put a folder in the place of another, which is moved out of the way."""
    if target.exists():
        os.replace(target, old)
    try:
        os.replace(new, target)
    except OSError:
        if old.exists():
            os.replace(old, target)
        raise


def _old_facts(stored: object) -> dict[str, Any]:
    try:
        facts = json.loads(stored) if isinstance(stored, str) else stored
    except ValueError:
        facts = None
    return dict(facts) if isinstance(facts, dict) else {}


def count_instances(labels: ArrayLike) -> int:
    """Return the number of ids; instances are numbered from 1 without gaps."""
    z, y, x = labels.shape
    boxes = iter_boxes((z, y, x), (64, 512, 512))
    return max((int(np.max(labels[box.slices])) for box in boxes), default=0)
