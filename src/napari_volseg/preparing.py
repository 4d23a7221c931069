"""Make ready what a training draws its patches from, and follow its labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from napari_volseg.annotated import annotated_box
from napari_volseg.errors import DataError
from napari_volseg.geometry import Box
from napari_volseg.intensities import Known
from napari_volseg.planning import TrainPlan
from napari_volseg.record import Record
from napari_volseg.runs import (
    FIRST_REVISION,
    TrainingPair,
    newest_revision,
    read_revision,
)
from napari_volseg.sampling import (
    Changes,
    Focus,
    PatchSource,
    PreparedVolume,
    find_changes,
    find_focus,
    ids_that_count,
    prepare_volume,
)

__all__ = ["TrainingData", "prepare_patches"]


def prepare_patches(
    plan: TrainPlan, pairs: Sequence[TrainingPair], folder: Path
) -> PatchSource:
    """Read the training volumes and compute their targets.

    A volume that is held out as a whole is not read.

    Parameters
    ----------
    plan, pairs
        The training, and all its volumes.
    folder
        Where arrays go that memory does not hold.

    Raises
    ------
    DataError
        If an image has NaN, nothing is left to learn from, or the disk is full.
    """
    return TrainingData(plan, pairs, folder).source


class TrainingData:
    """What a training learns from now, while new labels may come in.

    What is held out was decided by the labels that the run began with and stays:
    new labels in there count for validation alone.

    Parameters
    ----------
    plan, pairs
        The training, and its volumes with the labels that it began with.
    folder
        The run folder.
    record
        Of the checkpoint to go on from: its labels are used.

    Raises
    ------
    DataError
        As `prepare_patches`; if the labels of the record are not there any more.
    """

    def __init__(
        self,
        plan: TrainPlan,
        pairs: Sequence[TrainingPair],
        folder: Path,
        record: Record | None = None,
    ) -> None:
        self._plan = plan
        self._folder = folder
        self._learnt_from = [
            index
            for index, pair in enumerate(pairs)
            if pair.role == "train"
            and annotated_box(pair.volume) not in self._held_out(index)
        ]
        record = record or Record()
        self._revision = record.revision
        self.pairs = list(pairs)
        """The volumes with their labels of now."""
        try:
            self.pairs = read_revision(folder, record.revision, pairs)
        except DataError:
            if newest_revision(folder) <= record.revision:
                raise
            self._revision = FIRST_REVISION  # the newest are taken in a moment
        self._volumes = [self._prepare(self.pairs, i) for i in self._learnt_from]
        self.source = self._make_source(self._volumes, record)

    @property
    def intensities(self) -> Known:
        """What the images that are learnt from look like."""
        return tuple(volume.intensities for volume in self._volumes)

    @property
    def notices(self) -> list[str]:
        """Return what the user should know of the images."""
        return [
            f"{_channel_name(volume, channel)} has the same gray value everywhere, so "
            "nothing can be learnt from it: check that it is the right image."
            for volume in self._volumes
            for channel, (low, high) in enumerate(volume.range_C2)
            if low == high
        ]

    def take(self, revision: int, record: Record) -> tuple[str, bool]:
        """Learn from the labels of a revision from now on, and note it in the record.

        Returns
        -------
        message, is_truth_new
            What changed, in a sentence; whether held-out labels did.

        Raises
        ------
        DataError
            If they cannot be used. Everything is then as it was.
        """
        pairs = read_revision(self._folder, revision, self.pairs)
        self._refuse_empty_truth(pairs)
        is_truth_new = self._is_truth_new(pairs)
        changes = self._switch(pairs)
        self._revision = record.revision = revision
        record.revised_step = record.step
        record.changed = [
            (pair, *box.start, *box.stop)
            for pair, found in enumerate(changes)
            for box in found.boxes
        ]
        self.source = self._make_source(self._volumes, record)
        return _in_words(revision, pairs, changes, is_truth_new), is_truth_new

    def follow(self, record: Record) -> None:
        """Learn from the labels that a record names, as another process does."""
        if record.revision != self._revision:
            self._switch(read_revision(self._folder, record.revision, self.pairs))
            self._revision = record.revision
        self.source = self._make_source(self._volumes, record)

    def _switch(self, pairs: list[TrainingPair]) -> list[Changes]:
        """Prepare what changed and return it; what did not is used again."""
        found = [
            find_changes(old.volume, new.volume)
            for old, new in zip(self.pairs, pairs, strict=True)
        ]
        volumes = [
            self._prepare(pairs, pair, before) if found[pair].n_voxels else before
            for pair, before in zip(self._learnt_from, self._volumes, strict=True)
        ]
        self.pairs, self._volumes = pairs, volumes
        return found

    def _held_out(self, pair: int) -> list[Box]:
        return [h.box for h in self._plan.held_out if h.pair == pair]

    def _prepare(
        self,
        pairs: Sequence[TrainingPair],
        pair: int,
        before: PreparedVolume | None = None,
    ) -> PreparedVolume:
        plan = self._plan
        return prepare_volume(
            pairs[pair].volume,
            self._held_out(pair),
            plan.guard,
            plan.config,
            plan.patch_size,
            plan.boundary,
            plan.distance,
            plan.cache,
            self._folder,
            before,
        )

    def _make_source(
        self, volumes: Sequence[PreparedVolume], record: Record
    ) -> PatchSource:
        config, patch = self._plan.config, self._plan.patch_size
        found = (self._changed(volumes, record), self._corrected(volumes))
        foci = [focus for focus in found if focus is not None]
        return PatchSource(volumes, config, patch, foci=foci)

    def _corrected(self, volumes: Sequence[PreparedVolume]) -> Focus | None:
        """Favour what a review corrected, all through the training."""
        share = self._plan.config.data.corrections
        corrected = {
            number: self.pairs[pair].corrected
            for number, pair in enumerate(self._learnt_from)
        }
        if share == 0 or not any(corrected.values()):
            return None
        seed = self._plan.config.system.seed
        return find_focus(volumes, corrected, share, None, seed)

    def _changed(
        self, volumes: Sequence[PreparedVolume], record: Record
    ) -> Focus | None:
        """Favour what changed, for as many steps as an epoch has."""
        share = self._plan.config.data.new_labels
        until = record.revised_step + self._plan.steps_per_epoch
        if not (record.changed and share > 0 and record.step < until):
            return None
        changed = {
            number: [
                Box((z0, y0, x0), (z1, y1, x1))
                for of, z0, y0, x0, z1, y1, x1 in record.changed
                if of == pair
            ]
            for number, pair in enumerate(self._learnt_from)
        }
        return find_focus(volumes, changed, share, until, self._plan.config.system.seed)

    def _is_truth_new(self, pairs: Sequence[TrainingPair]) -> bool:
        """Return whether held-out labels differ from those of now."""
        return any(
            not np.array_equal(
                ids_that_count(self.pairs[held.pair].volume, held.box),
                ids_that_count(pairs[held.pair].volume, held.box),
            )
            for held in self._plan.held_out
        )

    def _refuse_empty_truth(self, pairs: Sequence[TrainingPair]) -> None:
        for held in self._plan.held_out:
            volume = pairs[held.pair].volume
            known = volume.annotated_ZYX
            if known is not None and not known[held.box.slices].any():
                raise DataError(
                    f"nothing of {volume.image.name} that is held out for validation "
                    "is annotated any more: annotate there again, or start a new run"
                )


def _channel_name(volume: PreparedVolume, channel: int) -> str:
    n = len(volume.range_C2)
    what = f"Channel {channel} (of 0 to {n - 1}) of" if n > 1 else "The image"
    return f"{what} {volume.name}"


def _in_words(
    revision: int,
    pairs: Sequence[TrainingPair],
    changes: Sequence[Changes],
    is_truth_new: bool,
) -> str:
    """Return the sentence that says what a revision changed."""
    parts = [
        f"{found.n_voxels:,} voxels of {found.n_objects:,} "
        f"{'object' if found.n_objects == 1 else 'objects'} in {pair.volume.image.name}"
        for pair, found in zip(pairs, changes, strict=True)
        if found.n_voxels
    ]
    if not parts:
        return f"Revision {revision}: the labels are as they were."
    message = f"Revision {revision}: new labels of {' and '.join(parts)}."
    if is_truth_new:
        message += (
            " Some of them are held out: scores from now on compare with each other, "
            "not with earlier ones."
        )
    return message
