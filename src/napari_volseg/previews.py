"""Show what the network has learnt so far, in a box of the user's choice."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from napari_volseg.events import PreviewReady
from napari_volseg.geometry import Box, Size
from napari_volseg.instances import segment
from napari_volseg.io import atomic_path
from napari_volseg.learner import Learner
from napari_volseg.planning import TrainPlan
from napari_volseg.runs import TrainingPair
from napari_volseg.targets import Targets
from napari_volseg.validation import predict_region, targets_of_box
from napari_volseg.volume import intensity_range, normalise

__all__ = ["PreviewBox", "Previewer", "preview_region"]

_KEPT = 2
"""Previews on disk: the newest, and the one a reader may still have open."""

PreviewBox = tuple[int, Size, Size]


class Previewer:
    """Predicts the preview box and writes it to ``previews/`` of a run."""

    def __init__(
        self, plan: TrainPlan, pairs: Sequence[TrainingPair], folder: Path
    ) -> None:
        self._plan = plan
        self._pairs = pairs
        self._folder = folder
        self._shown: PreviewBox | None = None
        self._ranges: dict[int, NDArray[np.float32]] = {}
        self._scene: tuple[tuple[int, Box], NDArray[np.uint8], Targets] | None = None

    def is_asked(self, wanted: PreviewBox | None) -> bool:
        """Return whether the user moved the box since the last preview."""
        return wanted is not None and wanted != self._shown

    def make(
        self, learner: Learner, wanted: PreviewBox | None
    ) -> tuple[PreviewReady, NDArray[np.uint8]]:
        """Write the maps and instances of the box; return the news and the maps."""
        self._shown = wanted
        pair, box = preview_region(wanted, self._pairs, self._plan.patch_size)
        volume = self._pairs[pair].volume
        if pair not in self._ranges:
            self._ranges[pair] = intensity_range(
                volume.image, self._plan.config.data.percentiles
            )
        maps = predict_region(
            learner.result, self._plan, volume, self._ranges[pair], box
        )
        labels = segment(maps, learner.instances)
        name = self._write(learner.step, maps, labels, box)
        return PreviewReady(learner.step, name, pair, box.start, box.stop), maps

    def scene(self) -> tuple[NDArray[np.uint8], Targets]:
        """Return the image of the box shown last, 255 being 1, and its true maps."""
        pair, box = preview_region(self._shown, self._pairs, self._plan.patch_size)
        if self._scene is None or self._scene[0] != (pair, box):
            volume = self._pairs[pair].volume
            image = normalise(volume.image.read(box.slices), self._ranges[pair])
            seen = np.rint(255 * np.clip(image[0], 0, 1)).astype(np.uint8)
            truth = targets_of_box(self._plan, volume, box)
            self._scene = (pair, box), seen, truth
        return self._scene[1:]

    def _write(
        self,
        step: int,
        maps: NDArray[np.uint8],
        labels: NDArray[np.int32],
        box: Box,
    ) -> str:
        folder = self._folder / "previews"
        folder.mkdir(mode=0o700, exist_ok=True)
        path = folder / f"preview-{step:06d}.npz"
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.savez(file, maps=maps, instances=labels, start=np.array(box.start))
        for old in sorted(folder.glob("preview-*.npz"))[:-_KEPT]:
            old.unlink(missing_ok=True)
        return path.relative_to(self._folder).as_posix()


def preview_region(
    wanted: tuple[int, Size, Size] | None, pairs: Sequence[TrainingPair], size: Size
) -> tuple[int, Box]:
    """Return the pair and box to preview.

    The box asked for, up to two patches long; by default one patch in the middle
    of the first volume.
    """
    if wanted is None:
        pair, longest = 0, size
        box = Box.whole(pairs[0].volume.image.shape_ZYX)
    else:
        pair = min(max(0, wanted[0]), len(pairs) - 1)
        longest = (2 * size[0], 2 * size[1], 2 * size[2])
        shape = pairs[pair].volume.image.shape_ZYX
        stop = tuple(max(a, b) for a, b in zip(wanted[1], wanted[2], strict=True))
        box = Box(wanted[1], stop).clip(shape)  # type: ignore[arg-type]
        if box.size == 0:
            box = Box.whole(shape)
    edges = [min(n, e) for n, e in zip(box.shape, longest, strict=True)]
    z, y, x = (
        a + (n - e) // 2 for a, n, e in zip(box.start, box.shape, edges, strict=True)
    )
    return pair, Box((z, y, x), (z + edges[0], y + edges[1], x + edges[2]))
