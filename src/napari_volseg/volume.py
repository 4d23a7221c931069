"""Volumes: arrays that know their voxel size and what of them is annotated."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from napari_volseg.errors import DataError
from napari_volseg.geometry import Size

__all__ = [
    "UNKNOWN_VOXEL_SIZE",
    "AnnotationRule",
    "ArrayLike",
    "LabelledVolume",
    "Volume",
    "VoxelSize",
    "check_finite",
    "intensity_range",
    "normalise",
    "read_annotation",
    "read_sample",
    "reading",
    "sample_range",
]

VoxelSize = tuple[float, float, float]
AnnotationRule = Literal["everywhere", "painted_slices", "painted_voxels"]

UNKNOWN_VOXEL_SIZE: VoxelSize = (1.0, 1.0, 1.0)
"""What a volume gets whose file says no voxel size, in nm."""

_FEW_PLANES = 8
"""Fewer planes say too little of a volume."""
_TILED_PLANES = 32
_TILE = 128
_WIDER: Sequence[tuple[float, float]] = ((0.005, 0.995), (0.0, 1.0))
"""Quantiles for channels in which almost all voxels have one value."""


class ArrayLike(Protocol):
    """What a lazy array must offer: numpy, h5py, zarr and dask arrays do."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of each axis."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values."""
        ...

    def __getitem__(self, key: Any, /) -> Any: ...


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Turn what a lazy array raises while it is read into a DataError naming it."""
    try:
        yield
    except (DataError, MemoryError):
        raise
    except Exception as error:  # a dask graph may raise anything
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise DataError(
            f"{name} cannot be read ({reason}): check that its file is still there "
            "and whole"
        ) from error


@dataclass(frozen=True, slots=True)
class Volume:
    """An image with axes (C)ZYX; `data` may be lazy and is never written."""

    data: ArrayLike
    voxel_size: VoxelSize = UNKNOWN_VOXEL_SIZE
    """Edge lengths (z, y, x) in nm."""
    name: str = "volume"
    """The layer or file, for messages."""

    def __post_init__(self) -> None:
        shape = tuple(self.data.shape)
        if len(shape) not in (3, 4):
            raise DataError(
                f"{self.name} has {len(shape)} axes {shape}: a volume has three "
                "(z, y, x) or four (channel, z, y, x); pick a part of it, such as [0]"
            )
        if 0 in shape:
            raise DataError(f"{self.name} is empty: its shape is {shape}")
        kind = np.dtype(self.data.dtype).kind
        if kind not in "buif" or np.dtype(self.data.dtype).itemsize > 8:
            raise DataError(
                f"{self.name} has values of type {self.data.dtype}: convert it to a "
                "real number type such as uint8, uint16 or float32"
            )
        if not all(np.isfinite(v) and v > 0 for v in self.voxel_size):
            raise DataError(
                f"{self.name} has the voxel size {self.voxel_size}: all three edges "
                "must be above zero"
            )

    @property
    def n_channels(self) -> int:
        """Number of channels; 1 when the array has no channel axis."""
        return int(self.data.shape[0]) if len(self.data.shape) == 4 else 1

    @property
    def shape_ZYX(self) -> Size:
        """Shape without the channel axis."""
        z, y, x = (int(n) for n in self.data.shape[-3:])
        return z, y, x

    def read(
        self, index: tuple[slice, slice, slice] = (slice(None),) * 3
    ) -> NDArray[Any]:
        """Return a copy of a box with axes CZYX, in native byte order."""
        key = (slice(None), *index) if len(self.data.shape) == 4 else index
        with reading(self.name):
            array = np.array(self.data[key])
        if array.ndim == 3:
            array = array[np.newaxis]
        return array.astype(array.dtype.newbyteorder("="), copy=False)


@dataclass(frozen=True, slots=True)
class LabelledVolume:
    """A volume with labels, and a mask of where they count."""

    image: Volume
    labels_ZYX: NDArray[np.integer[Any]]
    """Instance ids; 0 is background where annotated."""
    annotated_ZYX: NDArray[np.bool_] | None = None
    """True where the label counts; None means everywhere."""

    def __post_init__(self) -> None:
        name, shape = self.image.name, self.image.shape_ZYX
        if self.labels_ZYX.shape != shape:
            raise DataError(
                f"the labels of {name} have the shape {self.labels_ZYX.shape} but the "
                f"image has {shape}: they must cover the same voxels"
            )
        if self.annotated_ZYX is not None:
            if self.annotated_ZYX.shape != shape:
                raise DataError(
                    f"the annotated mask of {name} has the shape "
                    f"{self.annotated_ZYX.shape} but the image has {shape}"
                )
            if not self.annotated_ZYX.any():
                raise DataError(
                    f"nothing of {name} is annotated: the annotated mask is empty, "
                    "so paint or draw where the labels count"
                )
        if not self.labels_ZYX.any():
            raise DataError(f"the labels of {name} are empty: paint some objects first")


def read_annotation(
    labels_ZYX: NDArray[Any],
    rule: AnnotationRule = "everywhere",
    background_id: int = 0,
    mask_ZYX: NDArray[Any] | None = None,
    name: str = "the labels",
) -> tuple[NDArray[np.integer[Any]], NDArray[np.bool_] | None]:
    """Return checked labels and the mask of where they count.

    Parameters
    ----------
    labels_ZYX
        Ids as painted or read; integer-valued floats are accepted.
    rule
        ``everywhere``; ``painted_slices``: all of each z-slice that holds any
        paint; ``painted_voxels``: only voxels that carry an id.
    background_id
        An id that means background; its voxels become 0 and count as painted.
    mask_ZYX
        Region that is annotated, combined with `rule` by *and*.
    name
        The layer or file, for messages.

    Returns
    -------
    labels, annotated
        A new int32 or int64 array, and a mask or None for everywhere.

    Raises
    ------
    DataError
        For ids that are negative, fractional or beyond 63 bits.
    """
    labels = _check_labels(np.asarray(labels_ZYX), name)
    if rule == "everywhere" or labels.ndim != 3:
        annotated = None
    elif rule == "painted_slices":
        painted = labels.any(axis=(1, 2))
        annotated = np.repeat(painted, labels[0].size).reshape(labels.shape)
    else:
        annotated = labels != 0
    if background_id:
        labels[labels == background_id] = 0
    if mask_ZYX is not None:
        mask = np.asarray(mask_ZYX) != 0
        if mask.shape != labels.shape:
            raise DataError(
                f"the annotated mask of {name} has the shape {mask.shape} but the "
                f"labels have {labels.shape}"
            )
        annotated = mask if annotated is None else annotated & mask
    return labels, annotated


def _check_labels(labels: NDArray[Any], name: str) -> NDArray[np.integer[Any]]:
    if labels.dtype.kind not in "buif":
        raise DataError(f"{name} has values of type {labels.dtype}, not object numbers")
    if labels.size == 0:
        raise DataError(f"{name} is empty: its shape is {labels.shape}")
    if labels.dtype.kind == "f":
        if not np.isfinite(labels).all() or (labels != np.round(labels)).any():
            raise DataError(
                f"{name} holds fractions, not object numbers: is it an image layer?"
            )
        digits = np.finfo(labels.dtype).nmant + 1
        if float(np.abs(labels).max()) > 2**digits:
            raise DataError(
                f"{name} stores ids above 2^{digits} as "
                f"{8 * labels.dtype.itemsize}-bit floats, which rounds them: save the "
                "labels as integers"
            )
    low, high = int(labels.min()), int(labels.max())
    if low < 0:
        raise DataError(f"{name} has the negative id {low}: ids must be 0 or above")
    if high >= 2**63:
        raise DataError(
            f"{name} has the id {high}, which is beyond 63 bits: renumber it"
        )
    return labels.astype(np.int32 if high < 2**31 else np.int64)


def intensity_range(
    volume: Volume, quantiles: tuple[float, float], max_voxels: int = 2_000_000
) -> NDArray[np.float32]:
    """Return the robust intensity range of each channel, shape (C, 2).

    Where both quantiles are one value, as in fluorescence on an empty background,
    those of 0.5 % and 99.5 % take their place, then the lowest and highest value: only
    a constant channel has an empty range.

    Computed from a regular sample of at most about `max_voxels` voxels, so it
    neither depends on chance nor reads a whole large volume: of planes, or of small
    tiles where a few planes would hold that many voxels.

    Raises
    ------
    DataError
        If a voxel of the sample is NaN or infinite.
    """
    return sample_range(read_sample(volume, max_voxels), quantiles, volume.name)


def sample_range(
    parts_CZYX: Sequence[NDArray[Any]], quantiles: tuple[float, float], name: str
) -> NDArray[np.float32]:
    """Return the intensity range of what `read_sample` gave; see `intensity_range`."""
    flat = np.concatenate([p.reshape(len(p), -1) for p in parts_CZYX], axis=1)
    sample = flat.astype(np.float64)
    check_finite(sample, name)
    range_C2: NDArray[np.float32]
    range_C2 = np.quantile(sample, quantiles, axis=1).T.astype(np.float32)
    for wider in _WIDER:
        empty = range_C2[:, 0] == range_C2[:, 1]
        if empty.any():
            range_C2[empty] = np.quantile(sample[empty], wider, axis=1).T
    return range_C2


def read_sample(volume: Volume, max_voxels: int = 2_000_000) -> list[NDArray[Any]]:
    """Return slices, or small tiles of them, that are spread evenly over a volume.

    Planes where that gives enough of them, else tiles: all in all at most about
    `max_voxels` voxels, twice as many at worst. Each has the axes CZYX and one slice.
    """
    size = int(np.prod(volume.shape_ZYX))
    depth = volume.shape_ZYX[0]
    stride = max(1, size // max_voxels)
    if stride > 1 and depth // stride < _FEW_PLANES:
        return _read_tiles(volume, max_voxels)
    return [
        volume.read((slice(z, z + 1), slice(None), slice(None)))
        for z in range(0, depth, stride)
    ]


def _read_tiles(volume: Volume, max_voxels: int) -> list[NDArray[Any]]:
    """Read small tiles on a regular grid, in the middle of equal parts."""
    depth, height, width = volume.shape_ZYX
    h, w = min(_TILE, height), min(_TILE, width)
    n_z = min(depth, _TILED_PLANES)
    n = max(1.0, max_voxels / (n_z * h * w))
    n_y = max(1, min(height // h, round((n * height / width) ** 0.5)))
    n_x = max(1, min(width // w, round(n / n_y)))
    places = product(
        _middles(depth, n_z, 1), _middles(height, n_y, h), _middles(width, n_x, w)
    )
    return [
        volume.read((slice(z, z + 1), slice(y, y + h), slice(x, x + w)))
        for z, y, x in places
    ]


def _middles(length: int, n: int, edge: int) -> list[int]:
    """Return where `n` pieces start that lie in the middle of `n` equal parts."""
    return [int((i + 0.5) * length / n - edge / 2) for i in range(n)]


def check_finite(array: NDArray[Any], name: str) -> None:
    """Raise DataError when the array holds NaN or infinity."""
    if array.dtype.kind == "f":
        bad = array.size - int(np.count_nonzero(np.isfinite(array)))
        if bad:
            raise DataError(
                f"{name} has {bad} voxels that are NaN or infinite: replace them, "
                "for instance with numpy.nan_to_num"
            )


def normalise(
    array_CZYX: NDArray[Any], range_C2: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Map each channel's range to [0, 1]; a constant channel becomes 0.

    Beyond the range, values grow with the logarithm of their distance, so that a
    few very bright voxels neither squeeze the others nor become all alike.
    """
    low = range_C2[:, 0].reshape(-1, 1, 1, 1)
    width = (range_C2[:, 1] - range_C2[:, 0]).reshape(-1, 1, 1, 1)
    scale = np.where(width > 0, 1 / np.where(width > 0, width, 1), 0)
    result = (array_CZYX.astype(np.float32) - low) * scale.astype(np.float32)
    beyond = np.maximum(result - 1, 0) - np.maximum(-result, 0)
    np.clip(result, 0, 1, out=result)
    result += np.sign(beyond) * np.log1p(np.abs(beyond))
    return result
