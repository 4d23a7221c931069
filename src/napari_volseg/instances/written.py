"""What instances are written to, and what is known of them then."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from napari_volseg.errors import DataError
from napari_volseg.instances.measuring import Measures
from napari_volseg.volume import ArrayLike

__all__ = ["BlockwiseResult", "WritableArray", "check"]


class WritableArray(Protocol):
    """What labels are written to: a Zarr array, an HDF5 dataset, a NumPy array."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Size (z, y, x) in voxels."""

    @property
    def dtype(self) -> Any:
        """Any type of integers that holds the ids."""

    def __getitem__(self, key: Any, /) -> Any: ...
    def __setitem__(self, key: Any, value: Any, /) -> None: ...


@dataclass(frozen=True, slots=True)
class BlockwiseResult:
    """What was found."""

    measures: Measures
    """One row an instance, by rising id; see `review.table_of_blocks`."""
    n_blocks: int
    n_visits: int
    """How often a block was flooded: more where a halo was too small."""

    @property
    def n_instances(self) -> int:
        """Number of instances."""
        return len(self.measures.ids)


def check(maps: ArrayLike, labels: WritableArray, block: Sequence[int]) -> None:
    """Refuse maps, labels and blocks that do not fit together."""
    if len(maps.shape) != 4 or maps.shape[0] != 3 or maps.dtype != np.uint8:
        raise DataError(
            f"the maps have the shape {maps.shape} and type {maps.dtype}: they must be "
            "the channels mask, boundary and distance (C, Z, Y, X) as uint8"
        )
    if tuple(labels.shape) != tuple(maps.shape[1:]):
        raise DataError(
            f"the labels have the shape {labels.shape} but the maps "
            f"{maps.shape[1:]}: both must cover the same voxels"
        )
    if np.dtype(labels.dtype).kind not in "iu":
        raise DataError(f"labels of {labels.dtype} cannot hold ids: use int64 or int32")
    if any(edge < 2 or edge % 2 for edge in block):
        raise ValueError(f"block edges must be even, not {block}")
