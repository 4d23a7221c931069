"""What a training writes into its run folder while it goes on.

A disk that is full, read-only or gone does not end the training: the user is told
once, each write is tried again when it is next due, and told again when it works.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from napari_volseg.checkpoint import save_model
from napari_volseg.checkpoint_folder import save_checkpoint
from napari_volseg.errors import DataError
from napari_volseg.events import CheckpointSaved, Notice, PreviewReady
from napari_volseg.learner import Learner
from napari_volseg.pacing import Pace
from napari_volseg.previews import PreviewBox, Previewer

__all__ = ["RunFiles"]

T = TypeVar("T")


class RunFiles:
    """Writes checkpoints, the best model and previews of one run.

    Parameters
    ----------
    folder
        The run folder.
    keep
        Numbered checkpoints to keep.
    pace
        Told of each checkpoint, and how long it took.
    """

    def __init__(self, folder: Path, keep: int, pace: Pace) -> None:
        self._folder = folder
        self._keep = keep
        self._pace = pace
        self._is_best = False
        self._failing: set[str] = set()

    def save_checkpoint(self, learner: Learner) -> Iterator[CheckpointSaved | Notice]:
        """Write everything that is needed to go on from here."""
        started = time.monotonic()
        path = yield from self._attempt(
            "checkpoint",
            lambda: save_checkpoint(
                self._folder / "checkpoints",
                learner.state(),
                learner.step,
                best=self._is_best,
                keep=self._keep,
            ),
        )
        self._pace.saved(0.0 if path is None else time.monotonic() - started)
        if path is not None:
            best, self._is_best = self._is_best, False
            name = path.relative_to(self._folder).as_posix()
            yield CheckpointSaved(learner.step, name, best)

    def save_best(self, learner: Learner) -> Generator[Notice, None, bool]:
        """Write the model that is the best so far; return whether it worked."""

        def save() -> bool:
            save_model(
                self._folder / "model.safetensors",
                learner.result.state_dict(),
                learner.metadata(),
            )
            return True

        saved = yield from self._attempt("model", save)
        self._is_best = self._is_best or bool(saved)
        return bool(saved)

    def save_preview(
        self, previewer: Previewer, learner: Learner, box: PreviewBox | None
    ) -> Generator[PreviewReady | Notice, None, NDArray[np.uint8] | None]:
        """Write maps and instances of the preview box; return the maps."""
        made = yield from self._attempt("preview", lambda: previewer.make(learner, box))
        if made is None:
            return None
        news, maps_CZYX = made
        yield news
        return maps_CZYX

    def _attempt(
        self, what: str, write: Callable[[], T]
    ) -> Generator[Notice, None, T | None]:
        try:
            result = write()
        except (OSError, DataError) as error:
            if what not in self._failing:
                self._failing.add(what)
                yield Notice(
                    f"No {what} was saved, training goes on: {error}", "warning"
                )
            return None
        if what in self._failing:
            self._failing.remove(what)
            yield Notice(f"A {what} was saved again.")
        return result
