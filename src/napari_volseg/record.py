"""What a training remembers of itself, in plain numbers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Any

__all__ = ["Record"]


@dataclass
class Record:
    """Counters, scores and losses so far; a checkpoint keeps all of them."""

    step: int = 0
    """Steps done: optimizer updates, and those skipped."""
    steps_per_epoch: int = 0
    """Steps of an epoch when this was written; 0 where an older version wrote it."""
    shift: int = 0
    """What steps differ from those that as many epochs of now would have had."""
    elapsed: float = 0.0
    """Seconds of training, earlier sessions included."""
    epoch_losses: list[float] = field(default_factory=list)
    """Total loss of each step of this epoch."""
    epoch_parts: list[tuple[float, ...]] = field(default_factory=list)
    """Losses of the maps of each step of this epoch."""
    last_loss: float = inf
    """Mean training loss of the last epoch."""
    watched_loss: float = inf
    """What the last epoch was judged by: its loss on held-out voxels, if it had one."""
    lowest_loss: float = inf
    """Lowest watched loss of an epoch."""
    best_score: float = -inf
    best_metrics: dict[str, float] = field(default_factory=dict)
    start_score: float = -inf
    """Score of the model whose weights it began with."""
    stale_epochs: int = 0
    """Epochs since the score or the watched loss improved."""
    n_validations: int = 0
    n_skipped: int = 0
    """Steps whose loss or gradient was not finite."""
    skipped_in_row: int = 0
    """The same, since the last step that changed the weights."""
    skipped_before: int = 0
    """Steps skipped before this epoch."""
    rescues: int = 0
    """Times the training went back to an earlier state."""
    rescued_step: int = 0
    """The step it went back to last."""
    epochs: list[tuple[Any, ...]] = field(default_factory=list)
    """The numbers of each epoch, see `signs.Epoch`."""
    signs: dict[str, int] = field(default_factory=dict)
    """Kinds of signs the user was told, and in which epoch."""

    revision: int = 1
    """The labels that are learnt from; 1 are those that the run began with."""
    revised_step: int = 0
    """The step before which they were taken."""
    changed: list[tuple[int, ...]] = field(default_factory=list)
    """Where they differ from those before: the pair, then start and stop of a box."""
    parts_per_batch: int = 1
    """Parts that each batch is split into since memory ran out."""

    @property
    def counted(self) -> int:
        """Steps done, as if all epochs had been as long as they are now."""
        return self.step + self.shift

    def count_by(self, steps_per_epoch: int) -> None:
        """Go on with epochs of another length; those that are done stay done."""
        if self.steps_per_epoch not in (0, steps_per_epoch):
            counted = self.counted * steps_per_epoch // self.steps_per_epoch
            self.shift = counted - self.step
        self.steps_per_epoch = steps_per_epoch

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return dataclasses.asdict(self)

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Record:
        """Return the record of a checkpoint; a newer field has its default."""
        known = {f.name for f in dataclasses.fields(cls)}
        return cls(**{key: value for key, value in state.items() if key in known})
