"""What is known of each block of a segmentation, in files of one folder.

A file appears whole, and what it tells of other files is true: labels and seeds are
complete before a mark says so, and a mark is gone before they are changed. A
segmentation that is killed thus loses the blocks that it was at. Where it is not to go
on later, nothing waits for the disk.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from napari_volseg.geometry import Box
from napari_volseg.instances.floodblock import SIDES, Face, Flooded
from napari_volseg.instances.measuring import Measures
from napari_volseg.instances.peaks import TilePeaks
from napari_volseg.instances.planes import Layers
from napari_volseg.io import atomic_path, flush_folder, flush_shards, writing

__all__ = ["Records", "State"]

State = Literal["sown", "flooded", "numbered"]
"""What lies in the arrays: seeds; labels with the ids of seeds; labels as they stay."""

_PEAKS = ("seeds", "nodes", "births", "tops", "is_split", "edges", "voxels")
_MEASURES = ("ids", "sums", "boxes")


class Records:
    """The blocks of one segmentation.

    Parameters
    ----------
    folder
        Where the files are.
    durable
        Whether they are to be trusted after a crash of the system.
    """

    def __init__(self, folder: Path, *, durable: bool) -> None:
        self.folder, self._durable = folder, durable

    def is_marked(self, block: int, state: State) -> bool:
        """Return whether a block is in a state."""
        return self._mark(block, state).exists()

    def mark(self, block: int, state: State, array: Any, box: Box) -> None:
        """Say that a block is in a state, as it lies in this box of an array."""
        if self._durable:
            flush_shards(array, box)
        self._touch(self._mark(block, state))

    def unmark(self, block: int) -> None:
        """Say that the labels of a block are about to change."""
        for state in ("flooded", "numbered"):
            self._mark(block, state).unlink(missing_ok=True)
        if self._durable:
            flush_folder(self.folder)

    @property
    def is_settled(self) -> bool:
        """Whether no block saw its neighbours otherwise than they are."""
        return (self.folder / "settled").exists()

    def settle(self) -> None:
        """Say so."""
        self._touch(self.folder / "settled")

    def keep_peaks(
        self, block: int, peaks: TilePeaks, n_inner: int, layers: Layers
    ) -> None:
        """Keep what was found of the seeds of a block.

        Parameters
        ----------
        n_inner
            Seeds that are final within it, beside those of `peaks`.
        """
        arrays: dict[str, Any] = {name: getattr(peaks, name) for name in _PEAKS}
        for axis, side in peaks.faces:
            arrays[f"face-{axis}{side}"] = peaks.faces[axis, side]
        for axis, side in layers:
            arrays[f"layer-{axis}{side}"] = layers[axis, side]
        self._save(self._file(block, "peaks"), arrays | {"n_inner": np.array(n_inner)})

    def layers(self, block: int) -> tuple[int, Layers] | None:
        """Return how many seeds are final within a block, and its layers.

        None if nothing is known of it yet; otherwise its peaks are known too.
        """
        path = self._file(block, "peaks")
        if not path.exists():
            return None
        with np.load(path) as file:
            return int(file["n_inner"]), _by_side(file, "layer")

    def peaks(self, block: int, box: Box) -> TilePeaks:
        """Return the peaks of a block that were kept."""
        with np.load(self._file(block, "peaks")) as file:
            arrays = {name: file[name] for name in _PEAKS}
            return TilePeaks(box=box, faces=_by_side(file, "face"), **arrays)

    def keep_flood(self, block: int, flooded: Flooded, measures: Measures) -> None:
        """Keep the faces of a block, those beyond as it saw them, and its measures."""
        arrays = {name: getattr(measures, name) for name in _MEASURES}
        for kind, faces in (("own", flooded.own), ("seen", flooded.seen)):
            for (axis, side), face in faces.items():
                arrays[f"{kind}-{axis}{side}"] = face
        self._save(self._file(block, "flood"), arrays)

    def measures(self, block: int) -> Measures:
        """Return the measures of a block as it was flooded last."""
        with np.load(self._file(block, "flood")) as file:
            return Measures(*(file[name] for name in _MEASURES))

    def face(
        self, block: int, kind: Literal["own", "seen"], axis: int, side: int
    ) -> Face:
        """Return a face of a block as it was flooded last."""
        with np.load(self._file(block, "flood")) as file:
            face: Face = file[f"{kind}-{axis}{side}"]
        return face

    def _save(self, path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
        if self._durable:
            with atomic_path(path) as temporary, temporary.open("wb") as file:
                np.savez(file, **arrays)  # type: ignore[arg-type]  # names are no options
        else:
            with writing(path):
                np.savez(path, **arrays)  # type: ignore[arg-type]

    def _file(self, block: int, kind: str) -> Path:
        return self.folder / f"{block:06d}-{kind}.npz"

    def _mark(self, block: int, state: str) -> Path:
        return self.folder / f"{block:06d}.{state}"

    def _touch(self, path: Path) -> None:
        with writing(path):
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))


def _by_side(file: Mapping[str, NDArray[Any]], kind: str) -> dict[Any, NDArray[Any]]:
    """Return the arrays of a kind in a file, by axis and side."""
    names = {side: f"{kind}-{side[0]}{side[1]}" for side in SIDES}
    return {side: file[name] for side, name in names.items() if name in file}
