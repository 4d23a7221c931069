"""Join what the blocks of a volume know of their seeds, group by group.

Eight neighbouring blocks are joined first, then eight such groups, and so on, as in an
octree. At any moment little more is held than the graphs of the groups that are being
joined, which grow with their surface; all blocks at once would hold every contact at
every face of the volume.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
from numpy.typing import NDArray

from napari_volseg.geometry import Box, Size
from napari_volseg.instances.peaks import (
    MergedPeaks,
    Orders,
    ReadLayers,
    Rule,
    TilePeaks,
    reduce_tiles,
)

__all__ = ["Group", "join_blocks"]

Span = tuple[int, int]
"""First block along an axis, and the one after the last."""


@dataclass(frozen=True, slots=True)
class Group:
    """Neighbouring blocks, or groups of them, joined to one."""

    merged: MergedPeaks
    members: tuple[Group | int, ...]
    """In the order of `merged.tiles`; a block is its number."""

    @property
    def n_seeds(self) -> int:
        """Number of seeds that are final in it, in its members or in their blocks."""
        inner = (m.n_seeds - len(m.merged.peaks.seeds) for m in self._groups())
        return self.merged.n_seeds + sum(inner)

    def orders(self) -> Iterator[tuple[int, Orders]]:
        """Yield what to order of each block, where nothing lies outside the group.

        Ids are 1 to `n_seeds`; seeds that are final within a block have none yet.
        """
        own = self.merged.own_orders()
        yield from self._pass_on(own, len(own.ids) + 1)

    def _groups(self) -> Iterator[Group]:
        return (m for m in self.members if isinstance(m, Group))

    def _pass_on(self, orders: Orders, first_id: int) -> Iterator[tuple[int, Orders]]:
        passed = self.merged.pass_on(orders, first_id)
        next_id = first_id + sum(len(tile.seeds) for tile in self.merged.tiles)
        for member, theirs in zip(self.members, passed, strict=True):
            if isinstance(member, int):
                yield member, theirs
            else:
                yield from member._pass_on(theirs, next_id)
                next_id += member.n_seeds - len(member.merged.peaks.seeds)


def join_blocks(
    read_peaks: Callable[[int], TilePeaks],
    counts: Size,
    shape_ZYX: Size,
    read_layers: Callable[[Box], ReadLayers],
    rule: Rule,
) -> Group:
    """Join all blocks of a volume of this shape.

    Parameters
    ----------
    read_peaks
        Called with the number of each block, x fastest, once.
    counts
        Number of blocks along each axis.
    read_layers
        Returns for a box what `reduce_tiles` asks of its planes.
    """

    def join(spans: Sequence[Span]) -> tuple[Group, TilePeaks]:
        members: list[Group | int] = []
        tiles: list[TilePeaks] = []
        for part in product(*(_halves(span) for span in spans)):
            if all(b - a == 1 for a, b in part):
                z, y, x = (a for a, _ in part)
                number = (z * counts[1] + y) * counts[2] + x
                members.append(number)
                tiles.append(read_peaks(number))
            else:
                group, peaks = join(part)
                members.append(group)
                tiles.append(peaks)
        box = Box.around([tile.box for tile in tiles])
        merged = reduce_tiles(tiles, box, shape_ZYX, read_layers(box), rule)
        kept = replace(
            merged, peaks=_named(merged.peaks), tiles=[_named(t) for t in tiles]
        )
        return Group(kept, tuple(members)), merged.peaks

    return join([(0, n) for n in counts])[0]


def _halves(span: Span) -> list[Span]:
    first, last = span
    if last - first == 1:
        return [span]
    middle = (first + last + 1) // 2
    return [(first, middle), (middle, last)]


def _named(peaks: TilePeaks) -> TilePeaks:
    """Return what is needed of a tile to order its seeds."""
    nothing = np.empty(0, np.uint8)
    none: NDArray[np.int32] = np.empty((0, 3), np.int32)
    return replace(
        peaks,
        births=nothing,
        tops=nothing,
        is_split=nothing.astype(np.bool_),
        edges=none,
        voxels=none,
        faces={},
    )
