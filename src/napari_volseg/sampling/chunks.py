"""An image that is read block by block when patches ask for it."""

from __future__ import annotations

import threading
from collections import OrderedDict
from itertools import product
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_volseg.geometry import Box, Size
from napari_volseg.volume import Volume, check_finite

__all__ = ["ChunkedImage"]

_BLOCK: Size = (32, 128, 128)


class ChunkedImage:
    """A box of a stored image; the blocks used last are kept in memory.

    Indexed with four slices (channels, z, y, x); any thread may read.

    Parameters
    ----------
    image
        Read, never written.
    box
        The part of the image that is offered.
    max_bytes
        Bytes of blocks that are kept; at least one block always is.
    block
        Voxels (z, y, x) that are read at once.
    """

    def __init__(
        self, image: Volume, box: Box, max_bytes: int, block: Size = _BLOCK
    ) -> None:
        self.shape = (image.n_channels, *box.shape)
        self.dtype: np.dtype[Any] = np.dtype(image.data.dtype).newbyteorder("=")
        self.n_reads = 0
        """Blocks read from the file so far."""
        self._image = image
        self._box = box
        self._block = block
        self._capacity = max(1, max_bytes // (prod(block) * self._bytes_per_voxel))
        self._blocks: OrderedDict[Size, NDArray[Any]] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def _bytes_per_voxel(self) -> int:
        return self.shape[0] * self.dtype.itemsize

    def __getitem__(self, key: tuple[slice, ...]) -> NDArray[Any]:
        spans = [range(n)[s] for s, n in zip(key[1:], self.shape[1:], strict=True)]
        result = np.empty((self.shape[0], *map(len, spans)), self.dtype)
        numbers = [
            range(r.start // b, -(-r.stop // b)) if len(r) else range(0)
            for r, b in zip(spans, self._block, strict=True)
        ]
        for number in product(*numbers):
            part = self._load(number)  # type: ignore[arg-type]  # three axes
            target, source = [slice(None)], [slice(None)]
            for i, edge, r, n in zip(
                number, self._block, spans, part.shape[1:], strict=True
            ):
                first, last = max(r.start, i * edge), min(r.stop, i * edge + n)
                target.append(slice(first - r.start, last - r.start))
                source.append(slice(first - i * edge, last - i * edge))
            result[tuple(target)] = part[tuple(source)]
        return result[key[0]]

    def _load(self, number: Size) -> NDArray[Any]:
        with self._lock:
            if number in self._blocks:
                self._blocks.move_to_end(number)
                return self._blocks[number]
        start = [
            o + i * b
            for o, i, b in zip(self._box.start, number, self._block, strict=True)
        ]
        z, y, x = (
            slice(a, min(a + b, n))
            for a, b, n in zip(start, self._block, self._box.stop, strict=True)
        )
        block = self._image.read((z, y, x))
        check_finite(block, self._image.name)
        with self._lock:
            self.n_reads += 1
            self._blocks[number] = block
            while len(self._blocks) > self._capacity:
                self._blocks.popitem(last=False)
        return block
