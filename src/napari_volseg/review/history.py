"""Undo and redo."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from napari_volseg.review.deltas import Edit
from napari_volseg.review.statuses import Mark

__all__ = ["History", "Step"]

Marks = Mapping[int, Mark | None]


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """One action: what it changed in the labels and in the statuses."""

    number: int
    """Rises with every action of a review, and names its file."""
    edit: Edit
    marks_before: Marks = field(default_factory=dict)
    """Of the instances whose status changed; None for none."""
    marks_after: Marks = field(default_factory=dict)

    @property
    def words(self) -> str:
        """What was done, in a few words."""
        ids = self.edit.ids or tuple(self.marks_after)
        shown = ", ".join(map(str, ids[:4])) + ("…" if len(ids) > 4 else "")
        return f"{self.edit.kind} {shown}"


class History:
    """What was done, and what was taken back and can be done again."""

    def __init__(self) -> None:
        self.done: list[Step] = []
        self.undone: list[Step] = []

    @property
    def nbytes(self) -> int:
        """Bytes of all edits that are kept."""
        return sum(step.edit.nbytes for step in (*self.done, *self.undone))

    def push(self, step: Step) -> None:
        """Note what was just done; nothing can be done again any more."""
        self.undone.clear()
        self.done.append(step)

    def undo(self) -> Step | None:
        """Return the step to take back, None when there is none."""
        if not self.done:
            return None
        step = self.done.pop()
        self.undone.append(step)
        return step

    def redo(self) -> Step | None:
        """Return the step to do again, None when there is none."""
        if not self.undone:
            return None
        step = self.undone.pop()
        self.done.append(step)
        return step

    def replace_mark(
        self, label: int, old: Mark | None, new: Mark | None, since: int
    ) -> None:
        """Let steps after a number bring another status back than they did."""
        for steps in (self.done, self.undone):
            for i, step in enumerate(steps):
                marks = step.marks_before
                if step.number > since and label in marks and marks[label] == old:
                    steps[i] = replace(step, marks_before={**marks, label: new})

    def trim(self, max_bytes: int, newest: int) -> list[Step]:
        """Forget the oldest steps beyond a number of bytes, and return them.

        Parameters
        ----------
        newest
            Number of the last step that may be forgotten; one always stays.
        """
        forgotten = []
        while (
            self.nbytes > max_bytes
            and len(self.done) > 1
            and self.done[0].number <= newest
        ):
            forgotten.append(self.done.pop(0))
        return forgotten
