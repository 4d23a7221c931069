"""From the axes of a file and the index of a source to (C)ZYX."""

from __future__ import annotations

from napari_volseg.errors import DataError
from napari_volseg.io.lazy import LazyArray, Stored, as_range
from napari_volseg.io.sources import Index, Source
from napari_volseg.volume import VoxelSize

__all__ = ["arrange"]


def arrange(stored: Stored, source: Source) -> tuple[LazyArray, VoxelSize | None]:
    """Apply the source's index and bring the axes into the order (C)ZYX.

    Axes without names are taken as (C)ZYX after the index has been applied.

    Returns
    -------
    array, voxel_size
        The voxel size follows the steps of the index; None when unknown.

    Raises
    ------
    DataError
        If axes are left that a volume does not have, such as time.
    """
    shape = stored.array.shape
    ranges, kept = _apply_index(shape, source)
    if stored.axes is None:
        names = _unnamed(shape, kept, source)
    else:
        names = _named(stored.axes, shape, ranges, kept, source)
    order: list[int | None] = [names.get(axis) for axis in "ZYX"]
    steps = [1 if a is None else abs(ranges[a].step) for a in order]
    array = LazyArray(
        stored.array,
        ranges,
        [names["C"], *order] if "C" in names else order,
        source.name,
    )
    if stored.voxel_size is None:
        return array, None
    z, y, x = (v * step for v, step in zip(stored.voxel_size, steps, strict=True))
    return array, (z, y, x)


def _apply_index(
    shape: tuple[int, ...], source: Source
) -> tuple[list[range], list[int]]:
    """Return the range of each stored axis, and the axes that are left."""
    index: Index = source.index or ()
    if len(index) > len(shape):
        raise DataError(
            f"the index of {source.name} has {len(index)} parts but the array has "
            f"{len(shape)} axes {shape}: leave some out"
        )
    ranges = [range(n) for n in shape]
    kept = list(range(len(shape)))
    for axis, item in enumerate(index):
        try:
            taken = ranges[axis][item]
        except IndexError:
            raise DataError(
                f"the index {item} of {source.name} lies outside axis {axis}, which "
                f"has {shape[axis]} elements: correct the index"
            ) from None
        ranges[axis] = as_range(taken)
        if isinstance(item, int):
            kept.remove(axis)
    if not all(map(len, ranges)):
        whose = "the index of it takes nothing" if 0 not in shape else "choose another"
        raise DataError(f"{source.name} is empty, of {shape} voxels: {whose}")
    return ranges, kept


def _unnamed(shape: tuple[int, ...], kept: list[int], source: Source) -> dict[str, int]:
    if len(kept) not in (3, 4):
        left = tuple(shape[axis] for axis in kept)
        raise DataError(
            f"{source.name} has {len(kept)} axes {left}: a volume has three (z, y, x) "
            f"or four (channel, z, y, x): pick another dataset or a part{_part(kept)}"
        )
    if len(kept) == 4 and shape[kept[3]] <= 4 < shape[kept[0]]:
        raise DataError(
            f"{source.name} has the shape {tuple(shape[a] for a in kept)}, channels "
            "last: save it with the channels first, or pick one with [:,:,:,0]"
        )
    return dict(zip("CZYX"[-len(kept) :], kept, strict=True))


def _part(kept: list[int]) -> str:
    return ", for instance [0]" if len(kept) > 4 else ""


def _named(
    axes: str,
    shape: tuple[int, ...],
    ranges: list[range],
    kept: list[int],
    source: Source,
) -> dict[str, int]:
    """Return the stored axis of C, Z, Y and X; axes of one element are dropped."""
    left = {axes[a]: a for a in kept if len(ranges[a]) > 1 or axes[a] in "ZYX"}
    for unknown in "QI":
        if unknown in left and "Z" not in left:
            left["Z"] = left.pop(unknown)
    strange = [letter for letter in left if letter not in "CZYX"]
    if not {"Y", "X"} <= left.keys():
        raise DataError(
            f"{source.name} has the axes {axes}: a volume needs y and x, so leave them "
            "in the index"
        )
    if strange:
        what = "time points" if strange == ["T"] else f"axes {', '.join(strange)}"
        pick = f"{source.name.split('[')[0]}[{':,' * axes.index(strange[0])}0]"
        slices = "" if "Z" in left else "; if they are slices, save them as z"
        raise DataError(
            f"{source.name} has the axes {axes} {shape} but a volume has only (C)ZYX: "
            f"pick one of its {what}, for instance {pick}{slices}"
        )
    return left
