"""TIFF, BigTIFF, OME-TIFF and ImageJ stacks; no other file is ever read."""

from __future__ import annotations

import logging
import re
import threading
import weakref
from itertools import product
from math import isfinite, prod
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import tifffile
from numpy.typing import NDArray

from napari_volseg.errors import DataError
from napari_volseg.io.datasets import check_dtype, wrong_dataset
from napari_volseg.io.failures import check_memory, refusing
from napari_volseg.io.lazy import Stored, StoredArray
from napari_volseg.io.ngff import UNITS_NM
from napari_volseg.io.plain import PlainArray
from napari_volseg.io.sources import Source
from napari_volseg.io.tiff_pages import check_pages
from napari_volseg.volume import VoxelSize

__all__ = ["list_tiff", "open_tiff"]


def open_tiff(path: Path, source: Source) -> Stored:
    """Return the array of a series; the dataset of a source is its number."""
    file = source.path.name
    with refusing(file), _Damage() as damage:
        check_pages(path)
        tif = tifffile.TiffFile(path, _multifile=False)
        try:
            _check_single_file(tif, file)
            number = _series_number(tif, source)
            series = tif.series[number]
            if damage.found:
                raise DataError(f"{file} is damaged ({damage.found}): copy it again")
            axes, n_samples = _axes(series)
            array = _stored(tif, series, path, file, n_samples)
            size = _ome_voxel_size(tif, number) or _imagej_voxel_size(tif)
        except BaseException:
            tif.close()
            raise
        if not isinstance(array, _StoredPages):
            tif.close()
        return Stored(array, axes, size)


class _Damage(logging.Handler):
    """Listens for what tifffile only logs, such as a broken chain of pages.

    It would otherwise give the pages before the break as the whole image.
    """

    _SIGNS = ("page", "circular", "reshape", "corrupted file", "missing data")

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.found = ""
        self._thread = threading.get_ident()

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the first sign of damage."""
        text = re.sub(r"^<[^>]*> *", "", record.getMessage())
        mine = record.thread == self._thread
        if mine and not self.found and any(sign in text for sign in self._SIGNS):
            self.found = text[:120]

    def __enter__(self) -> _Damage:
        logging.getLogger("tifffile").addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger("tifffile").removeHandler(self)


def list_tiff(path: Path) -> list[str]:
    """Return the numbers of the series."""
    with refusing(path.name):
        check_pages(path)
        with tifffile.TiffFile(path, _multifile=False) as tif:
            return [str(i) for i in range(len(tif.series))]


def _series_number(tif: tifffile.TiffFile, source: Source) -> int:
    file, n = source.path.name, len(tif.series)
    if source.dataset is not None:
        if source.dataset in map(str, range(n)):
            return int(source.dataset)
        raise wrong_dataset(file, source.dataset, [str(i) for i in range(n)])
    if n == 0:
        raise DataError(f"{file} holds no image: save it again")
    volumes = [i for i, series in enumerate(tif.series) if len(series.shape) > 2]
    if n > 1 and len(volumes) != 1:
        shapes = ", ".join(f"{i}: {s.shape}" for i, s in enumerate(tif.series[:12]))
        raise DataError(
            f"{file} holds {n} images ({shapes}): pick one by its number, for instance "
            f"{file}:0"
        )
    return volumes[0] if volumes else 0


def _check_single_file(tif: tifffile.TiffFile, file: str) -> None:
    """Refuse an OME-TIFF whose planes or metadata lie in other files."""
    if tif.is_ndtiff:
        raise DataError(
            f"{file} is one part of an NDTiff folder: export it as one file"
        )
    if not tif.is_ome or not tif.ome_metadata:
        return
    root = ElementTree.fromstring(tif.ome_metadata)
    others = {
        node.get("FileName", node.get("MetadataFile", "another file"))
        for node in root.iter()
        if node.tag.endswith(("}UUID", "}BinaryOnly"))
        and node.text != root.get("UUID")
        and node.get("FileName", "").lower() != file.lower()
    }
    if others:
        raise DataError(
            f"{file} is one part of an image in several files ({min(others)}), which "
            "are not read: export it as one file"
        )


def _axes(series: tifffile.TiffPageSeries) -> tuple[str | None, int | None]:
    """Return a letter per axis, and the samples without alpha if there are any."""
    axes, shape = str(series.axes), tuple(series.shape)
    n_samples: int | None = None
    if "S" in axes:
        alpha = [
            extra for extra in series.keyframe.extrasamples if int(extra) in (1, 2)
        ]
        n_samples = max(1, shape[axes.index("S")] - len(alpha))
        if "C" not in axes or shape[axes.index("C")] == 1:
            axes = axes.replace("C", "P").replace("S", "C")
    return (axes if len(set(axes)) == len(axes) else None), n_samples


def _stored(
    tif: tifffile.TiffFile,
    series: tifffile.TiffPageSeries,
    path: Path,
    file: str,
    n_samples: int | None,
) -> StoredArray:
    page = series.keyframe
    if series.dtype is None:
        raise DataError(f"{file} has values of an unknown type: save it as uint16")
    check_dtype(np.dtype(series.dtype), file)
    samples = [slice(None)] * len(series.shape)
    if n_samples is not None:
        samples[series.axes.index("S")] = slice(n_samples)
    if series.dataoffset is not None:
        dtype = np.dtype(series.dtype).newbyteorder(tif.byteorder)
        plain = PlainArray(path, dtype, int(series.dataoffset), series.shape)
        return plain if n_samples is None else _WithoutAlpha(plain, tuple(samples))
    try:
        tifffile.TIFF.DECOMPRESSORS[page.compression]
    except KeyError:
        name = tifffile.COMPRESSION(page.compression).name
        raise DataError(
            f"{file} is compressed with {name}, which needs the package "
            "imagecodecs: install it or save the file uncompressed"
        ) from None
    pages = _StoredPages(series, file, tuple(samples))
    weakref.finalize(pages, tif.close)
    return pages


class _WithoutAlpha:
    """The first samples of a plain array."""

    chunks: tuple[int, ...] | None = None
    n_missing = 0

    def __init__(self, array: PlainArray, samples: tuple[slice, ...]) -> None:
        self.shape = tuple(
            len(range(n)[s]) for n, s in zip(array.shape, samples, strict=True)
        )
        self.dtype, self.read = array.dtype, array.read


class _StoredPages:
    """Pages that are decoded one at a time."""

    n_missing = 0

    def __init__(
        self, series: tifffile.TiffPageSeries, file: str, samples: tuple[slice, ...]
    ) -> None:
        full = tuple(int(n) for n in series.shape)
        inner = prod(series.keyframe.shape)
        self._n_outer = next(
            (k for k in range(len(full) + 1) if prod(full[k:]) == inner), -1
        )
        self._pages = [p for p in series if p and p.parent is series.parent]
        if self._n_outer < 0 or prod(full[: self._n_outer]) != len(self._pages):
            raise DataError(f"{file} is incomplete, pages are missing: copy it again")
        self._full, self._samples = full, samples
        self.shape = tuple(len(range(n)[s]) for n, s in zip(full, samples, strict=True))
        k = self._n_outer
        self.chunks: tuple[int, ...] | None = (1,) * k + self.shape[k:]
        self.dtype: np.dtype[Any] = np.dtype(series.dtype)
        self._file = file
        self._lock = threading.Lock()

    def read(self, slices: tuple[slice, ...]) -> NDArray[Any]:
        """Return a part; whole pages are decoded for it."""
        k = self._n_outer
        check_memory(prod(self._full[k:]) * self.dtype.itemsize, self._file)
        outer = [range(s.start, s.stop, s.step) for s in slices[:k]]
        shape = tuple(len(range(s.start, s.stop, s.step)) for s in slices)
        result = np.empty((prod(shape[:k]), *shape[k:]), self.dtype)
        with refusing(self._file), self._lock:
            for at, place in enumerate(product(*outer)):
                number = int(np.ravel_multi_index(place, self._full[:k])) if k else 0
                values = (
                    self._pages[number].asarray(maxworkers=1).reshape(self._full[k:])
                )
                result[at] = values[slices[k:]]
        return result.reshape(shape)


def _ome_voxel_size(tif: tifffile.TiffFile, number: int) -> VoxelSize | None:
    if not tif.is_ome or not tif.ome_metadata:
        return None
    root = ElementTree.fromstring(tif.ome_metadata)
    pixels = [node for node in root.iter() if node.tag.endswith("}Pixels")]
    if number >= len(pixels):
        return None
    node = pixels[number]
    lengths = [
        (node.get(f"PhysicalSize{axis}"), node.get(f"PhysicalSize{axis}Unit", "µm"))
        for axis in "ZYX"
    ]
    if lengths[1][0] is None or lengths[2][0] is None:
        return None
    if lengths[0][0] is None:
        if node.get("SizeZ") != "1":
            return None
        lengths[0] = lengths[1]
    return _in_nm([(float(length or 0), unit) for length, unit in lengths])


def _imagej_voxel_size(tif: tifffile.TiffFile) -> VoxelSize | None:
    metadata = tif.imagej_metadata
    if not metadata or not isinstance(metadata.get("unit"), str):
        return None
    lengths = [abs(float(metadata.get("spacing", 1.0)))]
    for tag in ("YResolution", "XResolution"):
        found = tif.pages.first.tags.get(tag)
        if found is None or not found.value[0]:
            return None
        lengths.append(found.value[1] / found.value[0])
    return _in_nm([(length, metadata["unit"]) for length in lengths])


def _in_nm(lengths: list[tuple[float, str]]) -> VoxelSize | None:
    """Convert (z, y, x) lengths; None when a unit is unknown or a length absurd."""
    factors = [
        UNITS_NM.get(unit.replace("\\u00B5", "µ").strip()) for _, unit in lengths
    ]
    if None in factors:
        return None
    z, y, x = (
        length * (factor or 0)
        for (length, _), factor in zip(lengths, factors, strict=True)
    )
    return (z, y, x) if min(z, y, x) > 0 and isfinite(z * y * x) else None
