"""Zarr v2 and v3, plain or OME-Zarr; nothing outside the folder is read."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import zarr
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
from napari_volseg.io.ngff import find_multiscale, has_level, read_axes, read_level
from napari_volseg.io.sources import Source
from napari_volseg.io.zarr_chunks import chunk_rule
from napari_volseg.io.zarr_nodes import (
    InsideStore,
    Node,
    checked_place,
    list_nodes,
    read_node,
)

__all__ = ["list_zarr", "open_zarr"]

_NUMCODECS = frozenset({
    "adler32", "bitround", "blosc", "bz2", "crc32", "crc32c", "delta",
    "fixedscaleoffset", "fletcher32", "gzip", "jenkins_lookup3", "lz4", "lzma",
    "packbits", "quantize", "shuffle", "zlib", "zstd",
})  # fmt: skip
_V3_CODECS = frozenset({
    "blosc", "bytes", "crc32c", "gzip", "sharding_indexed", "transpose", "zstd",
}) | {f"numcodecs.{name}" for name in _NUMCODECS}  # fmt: skip


def open_zarr(path: Path, source: Source, role: Role) -> Stored:
    """Return the array or image that is named, or the one that its role suggests."""
    with refusing(source.name):
        dataset = _choose(path, source.path.name, role, source.dataset)
        root, place = path, checked_place(dataset or "", source.name)
        node = read_node(root, place)
        if node and node.is_array and not place and read_node(path.parent, ""):
            root, place = path.parent, path.name  # the group around it knows more
        elif node is None:
            raise wrong_dataset(source.path.name, str(dataset), list_nodes(path))
        multiscale = find_multiscale(node.attributes)
        if not node.is_array:
            if multiscale is None:
                choices = ", ".join(list_nodes(path)[:12]) or "no volumes"
                raise DataError(
                    f"{source.name} is a group, not an array: the file has {choices}"
                )
            level = checked_place(read_level(multiscale, source.name), source.name)
            place = f"{place}/{level}" if place else level
        return _open_array(root, place, source)


def list_zarr(path: Path) -> list[str]:
    """Return the images and arrays of numbers with at least three axes."""
    with refusing(path.name):
        return list_nodes(path)


def _choose(path: Path, file: str, role: Role, dataset: str | None) -> str | None:
    root = read_node(path, "")
    if root is None:
        raise DataError(
            f"{file} is a folder without Zarr metadata (zarr.json, .zarray, .zgroup): "
            "give a file or a Zarr folder"
        )
    is_image = root.is_array or find_multiscale(root.attributes) is not None
    if dataset is not None or (is_image and role == "image") or root.is_array:
        return dataset
    names = list_nodes(path)
    labels = [name for name in names if "labels/" in f"/{name}"]
    if is_image and not labels:
        return None
    return choose_dataset(labels if role == "labels" and labels else names, role, file)


def _open_array(root: Path, place: str, source: Source) -> Stored:
    node = read_node(root, place)
    if node is None or not node.is_array:
        raise DataError(
            f"{source.name} lists the array {place} in its key multiscales/datasets "
            "but has no such array: copy the folder again, whole"
        )
    dtype = _check_node(node, source.name)
    store = InsideStore(root, check=chunk_rule(node, dtype.itemsize, source.name))
    with warnings.catch_warnings():
        # numcodecs under v3 are outside the specification, yet they are read well
        warnings.filterwarnings("ignore", message="Numcodecs codecs are not in the")
        array = zarr.open_array(
            store,
            path=place,
            mode="r",
            zarr_format=2 if node.version == 2 else 3,
        )
    stored = _StoredZarr(array, source.name, store, (root, place))
    image = _image_around(root, place)
    if image is not None:
        multiscale, level = image
        axes, size = read_axes(multiscale, level, len(stored.shape), source.name)
        return Stored(stored, axes, size)
    size = voxel_size_of(node.attributes)
    group = read_node(root, place.rpartition("/")[0]) if place else None
    if size is None and group is not None:
        size = voxel_size_of(group.attributes)
    return Stored(stored, _dimension_names(node), size)


def _image_around(root: Path, place: str) -> tuple[Mapping[str, Any], str] | None:
    """Return the image that lists an array among its levels, and the array's path."""
    parts = place.split("/") if place else []
    for k in reversed(range(len(parts))):
        group = read_node(root, "/".join(parts[:k]))
        multiscale = find_multiscale(group.attributes) if group else None
        level = "/".join(parts[k:])
        if multiscale is not None and has_level(multiscale, level):
            return multiscale, level
    root = Path(os.path.abspath(root))
    # What a link points to is no part of the image that holds the link.
    if root == root.parent or root.is_symlink() or read_node(root.parent, "") is None:
        return None
    return _image_around(root.parent, f"{root.name}/{place}".rstrip("/"))


def _dimension_names(node: Node) -> str | None:
    names = node.metadata.get("dimension_names")
    names = names or node.attributes.get("_ARRAY_DIMENSIONS")
    if not isinstance(names, list):
        return None
    letters = "".join(str(name).upper() for name in names)
    unique = len(set(letters)) == len(letters) == len(names)
    return letters if unique and {"Y", "X"} <= set(letters) <= set("TCZYX") else None


def _check_node(node: Node, name: str) -> np.dtype[Any]:
    """Refuse what is not a plain array of numbers, before Zarr looks at it."""
    allowed = _NUMCODECS if node.version == 2 else _V3_CODECS
    for codec in _codec_names(node):
        if codec not in allowed:
            raise DataError(
                f"{name} is stored with the codec {codec}, which is not supported: "
                "save it with zstd, blosc or gzip"
            )
    kind = node.metadata.get("dtype" if node.version == 2 else "data_type")
    if not isinstance(kind, str):
        dtype = np.dtype("V1")
    elif kind.startswith(("r", "string", "fixed", "null", "struct")):
        dtype = np.dtype("O")
    else:
        dtype = np.dtype(kind)
    check_dtype(dtype, name)
    grid = node.metadata.get("chunk_grid") or {}
    chunks = node.metadata.get("chunks") or grid["configuration"]["chunk_shape"]
    for what, lengths in (("shape", node.metadata.get("shape")), ("chunks", chunks)):
        if not isinstance(lengths, list) or not all(
            isinstance(n, int) and 0 < n < 2**62 for n in lengths
        ):
            raise DataError(
                f"{name} is empty or damaged: its {what} is {str(lengths)[:80]}"
            )
    return dtype


def _codec_names(node: Node) -> Iterator[str]:
    if node.version == 2:
        codecs = [
            node.metadata.get("compressor"),
            *(node.metadata.get("filters") or ()),
        ]
        yield from (str(codec.get("id")) for codec in codecs if codec is not None)
    else:
        yield from _v3_names(node.metadata.get("codecs") or ())


def _v3_names(codecs: Iterable[Any]) -> Iterator[str]:
    for codec in codecs:
        if isinstance(codec, str):
            yield codec
            continue
        yield str(codec.get("name"))
        inner = codec.get("configuration") or {}
        yield from _v3_names(inner.get("codecs") or ())
        yield from _v3_names(inner.get("index_codecs") or ())


class _StoredZarr:
    def __init__(
        self,
        array: zarr.Array[Any],
        name: str,
        store: InsideStore,
        place: tuple[Path, str],
    ) -> None:
        self.shape = tuple(int(n) for n in array.shape)
        self.dtype: np.dtype[Any] = np.dtype(array.dtype)
        self.chunks: tuple[int, ...] | None = tuple(array.chunks)
        self._array, self._name, self._store, self._place = array, name, store, place
        check_dtype(self.dtype, name)
        check_memory(prod(array.chunks) * self.dtype.itemsize, f"one chunk of {name}")

    @property
    def n_missing(self) -> int:
        return len(self._store.missing)

    def read(self, slices: tuple[slice, ...]) -> NDArray[Any]:
        with refusing(self._name):
            values = np.asarray(self._array[slices])
            # A chunk that is not there reads as zeros, also when all are gone.
            node = read_node(*self._place)
            if node is None or tuple(node.metadata.get("shape", ())) != self.shape:
                raise DataError(
                    f"{self._name} was deleted or replaced while it was in use: put it "
                    "back, then start again or resume"
                )
            return values
