"""Arrays that live in memory, or on disk for as long as they are used."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from napari_volseg.errors import DataError

__all__ = ["new_array", "reserve"]

_BLOCK = 2**24


def new_array(
    shape: Sequence[int],
    dtype: DTypeLike,
    folder: Path | None,
    needs: str = "training data: free some space, set data.cache=ram, or train on a "
    "part of the volume",
) -> NDArray[Any]:
    """Return an array of zeros: in memory, or mapped from a nameless file.

    The file is gone with the array, also when the process is killed.

    Parameters
    ----------
    folder
        Where the file is made; None for an array in memory.
    needs
        What it holds and what to do without room for it, for the message.

    Raises
    ------
    DataError
        If the disk of the folder has no room for it.
    """
    if folder is None:
        return np.zeros(tuple(shape), dtype)
    size = prod(shape) * np.dtype(dtype).itemsize
    with tempfile.TemporaryFile(dir=folder) as file:
        try:
            reserve(file, size)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
                raise
            raise DataError(
                f"the disk of {folder} has no room for {size / 1e9:.1f} GB of {needs}"
            ) from error
        mapped: NDArray[Any] = np.memmap(file, dtype, "r+", shape=tuple(shape))
    return mapped


def reserve(file: IO[bytes], size: int) -> None:
    """Take the room for so many zeros from where the file stands.

    A full disk that is met later, through a mapping, kills the process.

    Raises
    ------
    OSError
        If there is no such room.
    """
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), file.tell(), size)
        return
    zeros = bytes(min(_BLOCK, size))
    for start in range(0, size, _BLOCK):
        file.write(zeros[: min(_BLOCK, size - start)])
    file.flush()
