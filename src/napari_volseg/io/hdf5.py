"""HDF5: nothing outside the file is ever read."""

from __future__ import annotations

import json
import threading
import time
from math import prod
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from napari_volseg.errors import DataError
from napari_volseg.io.datasets import (
    Role,
    check_dtype,
    choose_dataset,
    voxel_size_of,
    wrong_dataset,
)
from napari_volseg.io.failures import check_memory, refusing
from napari_volseg.io.lazy import Stored
from napari_volseg.io.sources import Source

__all__ = ["in_use", "list_hdf5", "open_hdf5"]

LOCKED_SECONDS = 2.0
_MAX_VISITED = 10_000
_MAX_LISTED = 1000
_CACHE = 32 * 2**20


def open_hdf5(path: Path, source: Source, role: Role) -> Stored:
    """Return the dataset that is named, or the one that its role suggests."""
    file = source.path.name
    with refusing(file), _open(path) as h5:
        dataset = source.dataset
        if dataset is None:
            dataset = choose_dataset(_list(h5), role, file)
        node = _dataset(h5, dataset, file)
        array = _StoredDataset(path, dataset, node)
        size = voxel_size_of(node.attrs) or voxel_size_of(h5.attrs)
        return Stored(array, _axis_tags(node), size)


def list_hdf5(path: Path) -> list[str]:
    """Return the datasets of numbers with at least three axes."""
    with refusing(path.name), _open(path) as h5:
        return _list(h5)


def in_use(file: str) -> DataError:
    """Return the error for a file that another program is writing."""
    return DataError(
        f"{file} is in use, another program is writing it: close it there and try again"
    )


def _open(path: Path) -> h5py.File:
    give_up = time.monotonic() + LOCKED_SECONDS
    while True:
        try:
            return h5py.File(path, "r")
        except OSError as error:
            text = str(error)
            if "unable to lock file" not in text and "already open for" not in text:
                raise
            if time.monotonic() >= give_up:
                raise in_use(path.name) from error
            time.sleep(0.1)


def _list(h5: h5py.File) -> list[str]:
    """Return the datasets of numbers with three axes or more; links not followed.

    Groups are followed one by one: HDF5's own visit crashes on some damaged files.
    """
    names: list[str] = []
    seen: set[object] = set()
    waiting: list[tuple[str, h5py.Group]] = [("", h5)]
    while waiting and len(names) < _MAX_LISTED:
        place, group = waiting.pop()
        inner = []
        for part in sorted(group):
            if len(seen) >= _MAX_VISITED or len(names) >= _MAX_LISTED:
                break
            if not isinstance(group.get(part, getlink=True), h5py.HardLink):
                continue
            node, name = group[part], f"{place}{part}"
            if node.id in seen:  # by its address in the file
                continue
            seen.add(node.id)
            if isinstance(node, h5py.Group):
                inner.append((f"{name}/", node))
            elif isinstance(node, h5py.Dataset) and _is_volume(node):
                names.append(name)
        waiting += reversed(inner)
    return names


def _is_volume(node: h5py.Dataset) -> bool:
    if len(node.shape or ()) < 3:
        return False
    try:
        return node.dtype.kind in "buif"
    except TypeError:  # a type that numpy does not have
        return False


def _dataset(h5: h5py.File, dataset: str, file: str) -> h5py.Dataset:
    """Return a dataset that lies in this file, every part of its path a hard link."""
    name = f"{file}:{dataset}"
    node: h5py.HLObject = h5
    for part in [part for part in dataset.split("/") if part not in ("", ".")]:
        if not isinstance(node, h5py.Group):
            raise wrong_dataset(file, dataset, _list(h5))
        link = node.get(part, getlink=True)
        if link is None:
            raise wrong_dataset(file, dataset, _list(h5))
        if not isinstance(link, h5py.HardLink):
            raise DataError(
                f"{name} is not followed, {part} is a link to elsewhere: copy the data "
                "into the file"
            )
        node = node[part]
    if not isinstance(node, h5py.Dataset):
        choices = _list(h5)
        raise DataError(
            f"{name} is a group, not a dataset: choose one of {', '.join(choices[:12])}"
            if choices
            else f"{name} is a group, not a dataset, and the file holds no volumes"
        )
    _check_storage(node, name)
    return node


def _check_storage(node: h5py.Dataset, name: str) -> None:
    if node.external or node.is_virtual:
        raise DataError(
            f"{name} keeps its values in other files, which are not read: copy them "
            "into one file"
        )
    if node.shape is None:
        raise DataError(f"{name} is empty: it has no shape")
    check_dtype(node.dtype, name)
    plist = node.id.get_create_plist()
    for i in range(plist.get_nfilters()):
        code, _, _, label = plist.get_filter(i)
        if not h5py.h5z.filter_avail(code):
            known = label.decode("utf-8", "replace").split(";")[0] or "unknown"
            raise DataError(
                f"{name} is compressed with the HDF5 filter {code} ({known}), which is "
                "not installed: install its plugin or save the file with gzip"
            )


def _axis_tags(node: h5py.Dataset) -> str | None:
    """Return the axes that ilastik writes, or None."""
    try:
        tags = json.loads(node.attrs["axistags"])
        axes = "".join(tag["key"] for tag in tags["axes"]).upper()
    except (KeyError, TypeError, ValueError):
        return None
    fits = len(axes) == node.ndim == len(set(axes)) and {"Y", "X"} <= set(axes)
    return axes if fits else None


class _StoredDataset:
    """A dataset whose file is open only while it is read.

    So the file is never locked for others and any thread may read. The last
    slab of compressed chunks is kept, because browsing and sampling ask for
    one slice after the other.
    """

    n_missing = 0

    def __init__(self, path: Path, dataset: str, node: h5py.Dataset) -> None:
        self.shape = tuple(int(n) for n in node.shape)
        self.dtype: np.dtype[Any] = node.dtype
        self._path, self._dataset = path, dataset
        self.chunks: tuple[int, ...] | None = node.chunks
        self._chunks = node.chunks if node.chunks and node.compression else None
        self._lock = threading.Lock()
        self._slab: tuple[object, slice, NDArray[Any]] | None = None
        check_memory(prod(node.chunks or ()) * self.dtype.itemsize, str(path))

    def read(self, slices: tuple[slice, ...]) -> NDArray[Any]:
        axis = max(0, len(slices) - 3)
        wide = self._widened(slices, axis)
        if wide is None:
            return self._load(slices)
        others = [(s.start, s.stop, s.step) for i, s in enumerate(slices) if i != axis]
        with refusing(self._path.name):
            stat = self._path.stat()
        same = (stat.st_mtime_ns, stat.st_size, stat.st_ino, others)
        want = slices[axis]
        with self._lock:
            kept = self._slab
            if (
                kept is None
                or kept[0] != same
                or want.start < kept[1].start
                or want.stop > kept[1].stop
            ):
                slab = self._load((*slices[:axis], wide, *slices[axis + 1 :]))
                kept = self._slab = (same, wide, slab)
        shift = kept[1].start
        part = slice(want.start - shift, want.stop - shift, want.step)
        return kept[2][(slice(None),) * axis + (part,)].copy()

    def _widened(self, slices: tuple[slice, ...], axis: int) -> slice | None:
        """Return the whole chunks along z, if they are few enough to keep."""
        if self._chunks is None or self._chunks[axis] == 1:
            return None
        depth, want = self._chunks[axis], slices[axis]
        start = want.start // depth * depth
        stop = min(-(-want.stop // depth) * depth, self.shape[axis])
        counts = [len(range(s.start, s.stop, s.step)) for s in slices]
        voxels = prod(counts) // counts[axis] * (stop - start)
        fits = voxels * self.dtype.itemsize <= _CACHE
        return slice(start, stop, 1) if fits else None

    def _load(self, slices: tuple[slice, ...]) -> NDArray[Any]:
        file = self._path.name
        with refusing(f"{file}:{self._dataset}"), _open(self._path) as h5:
            node = _dataset(h5, self._dataset, file)
            if node.shape != self.shape or node.dtype != self.dtype:
                raise DataError(
                    f"{file} has changed since it was opened: open it again"
                )
            return np.asarray(node[slices])
