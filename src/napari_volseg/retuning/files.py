"""Arrays that are files which client and server map, so that none is copied."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue

import numpy as np
from numpy.typing import NDArray

from napari_volseg.geometry import Size
from napari_volseg.io.scratch import reserve

__all__ = ["SharedArrays"]


class SharedArrays:
    """Arrays to write instances into, used again once the client has let them go.

    The pages of a new file cost more time than what is written into them.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._arrays: dict[str, NDArray[np.int32]] = {}
        self._free: list[str] = []
        self._n_made = 0
        self.let_go: SimpleQueue[str] = SimpleQueue()
        """Names of files that nobody looks at any more, put here by any thread."""

    def take(self, shape: Size) -> tuple[str, NDArray[np.int32]]:
        """Return the name of a file and the array in it, with any content.

        Raises
        ------
        OSError
            If there is no room for it.
        """
        while not self.let_go.empty():
            name = self.let_go.get()
            if name in self._arrays:
                self._free.append(name)
        for name in self._free:
            if self._arrays[name].shape == shape:
                self._free.remove(name)
                return name, self._arrays[name]
        self._remove_free()
        self._n_made += 1
        name = f"shared-{self._n_made}.npy"
        try:
            self._arrays[name] = _make(self._folder / name, shape)
        except OSError:
            with suppress(OSError):
                (self._folder / name).unlink()
            raise
        return name, self._arrays[name]

    def _remove_free(self) -> None:
        for name in self._free:
            del self._arrays[name]
            with suppress(OSError):  # Windows keeps what is mapped
                (self._folder / name).unlink()
        self._free.clear()


def _make(path: Path, shape: Size) -> NDArray[np.int32]:
    array = np.lib.format.open_memmap(path, "w+", np.dtype(np.int32), shape)
    with path.open("r+b") as file:
        file.seek(array.offset)
        reserve(file, array.nbytes)
    return np.asarray(array)
