"""Arrays that lie in a file as they are: read, never mapped.

A mapping of a file that another program makes shorter kills the process that reads it
(SIGBUS); a read comes back short and becomes an error.
"""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from napari_volseg.errors import DataError
from napari_volseg.io.failures import refusing

__all__ = ["PlainArray"]

_HEAD = 4096
_GAP = 2**18
"""Bytes that are read at once although little of them is wanted."""
_AT_ONCE = 2**24


class PlainArray:
    """An array that fills a stretch of a file; the file is open while it is read.

    Parameters
    ----------
    offset
        Where the first element lies, in bytes.
    is_fortran
        Whether the first axis runs fastest, not the last.

    Raises
    ------
    DataError
        If the file is shorter than the array.
    """

    chunks: tuple[int, ...] | None = None
    n_missing = 0

    def __init__(
        self,
        path: Path,
        dtype: np.dtype[Any],
        offset: int,
        shape: tuple[int, ...],
        *,
        is_fortran: bool = False,
    ) -> None:
        self.shape = tuple(int(n) for n in shape)
        self.dtype: np.dtype[Any] = dtype
        self._path, self._offset, self._is_fortran = path, offset, is_fortran
        end = offset + prod(self.shape) * dtype.itemsize
        size = path.stat().st_size
        if end > size:
            raise DataError(
                f"{path.name} is incomplete, {end} bytes are declared but {size} are "
                "there: copy it again"
            )
        with path.open("rb") as stream:
            self._head = stream.read(min(offset, _HEAD))

    def read(self, slices: tuple[slice, ...]) -> NDArray[Any]:
        """Return a part."""
        shape, parts = self.shape, slices
        if self._is_fortran:
            shape, parts = shape[::-1], parts[::-1]
        strides = [
            self.dtype.itemsize * prod(shape[i + 1 :]) for i in range(len(shape))
        ]
        counts = [len(range(s.start, s.stop, s.step)) for s in parts]
        result = np.empty(counts, self.dtype)
        with refusing(self._path.name), self._path.open("rb", buffering=0) as stream:
            if stream.read(len(self._head)) != self._head:
                raise DataError(
                    f"{self._path.name} has changed since it was opened: open it again"
                )
            start = self._offset + sum(
                s.start * stride for s, stride in zip(parts, strides, strict=True)
            )
            steps = [s.step * n for s, n in zip(parts, strides, strict=True)]
            self._fill(stream, result, start, steps)
        return result.T if self._is_fortran else result

    def _fill(
        self, stream: BinaryIO, result: NDArray[Any], start: int, steps: list[int]
    ) -> None:
        """Read the elements from `start` on, `steps` bytes apart along each axis."""
        if result.size == 0:
            return
        pairs = zip(result.shape, steps, strict=True)
        span = sum((n - 1) * step for n, step in pairs) + self.dtype.itemsize
        if span == result.nbytes and result.flags.c_contiguous:
            self._fetch(stream, start, result.reshape(-1).view(np.uint8))
        elif result.ndim == 0 or span <= max(_GAP, min(8 * result.nbytes, _AT_ONCE)):
            raw = np.empty(span, np.uint8)
            self._fetch(stream, start, raw)
            result[...] = np.ndarray(result.shape, self.dtype, raw.data, 0, steps)
        else:
            for i in range(len(result)):
                self._fill(stream, result[i, ...], start + i * steps[0], steps[1:])

    def _fetch(self, stream: BinaryIO, start: int, raw: NDArray[np.uint8]) -> None:
        stream.seek(start)
        done = 0
        while done < raw.size:
            got: int = stream.readinto(raw[done:].data)  # type: ignore[attr-defined]
            if not got:
                raise DataError(
                    f"{self._path.name} has become shorter since it was opened: "
                    "copy it again"
                )
            done += got
