"""Begin the review of a labels layer: its copy, its table and what was saved."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from napari.layers import Labels
from numpy.typing import NDArray

from napari_volseg.errors import DataError
from napari_volseg.review import (
    Helper,
    Review,
    ReviewFolder,
    Saved,
    add_doubt,
    fingerprint,
    measure_instances,
)
from napari_volseg.review.rows import box_of_row, column_names
from napari_volseg.runs.naming import safe_name
from napari_volseg.volume import VoxelSize
from napari_volseg.widgets import outputs
from napari_volseg.widgets.helper import Cancelled
from napari_volseg.widgets.layers import (
    METADATA_KEY,
    labels_array,
    placement,
    plain,
    voxel_size,
)
from napari_volseg.widgets.outputs import MAPS, role_of
from napari_volseg.widgets.predictions import shown_predictions
from napari_volseg.widgets.preferences import runs_dir
from napari_volseg.widgets.strokehistory import StrokeHistory
from napari_volseg.widgets.strokes import strokes_of, without_strokes

__all__ = [
    "Opened",
    "Request",
    "is_ours",
    "make_copy",
    "open_review",
    "request_for",
    "take_again",
]

_TAKEN = (
    "Another window reviews these instances and saves there; what is done here is not "
    "saved."
)
_CHANGED = (
    "Another review of these instances was saved meanwhile, and stays; what is done "
    "here is not saved. To go on with what is saved, remove this layer and review its "
    "instances anew."
)
_REVIEWED = "reviewed"
_TOP = 2**22
"""Of larger ids, voxels are not counted to compare them with a table."""


@dataclass
class Opened:
    """A review that can begin."""

    review: Review
    maps: Sequence[Any] | None
    """Mask, boundary and distance; lazy or not."""
    folder: ReviewFolder | None
    """Where it is saved; None while another window saves there."""
    message: str = ""
    unsaved_because: str = ""
    """Why `folder` is None."""
    waiting: ReviewFolder | None = None
    """Where it would be saved if nobody else did."""
    is_unsaved: bool = False
    """Whether something was done that could not be saved before it was left."""
    strokes: StrokeHistory = field(init=False)

    def __post_init__(self) -> None:
        self.strokes = StrokeHistory(self.review)


@dataclass(frozen=True)
class Request:
    """What `open_review` needs, read from layers on the GUI thread."""

    labels_ZYX: Any
    maps: Sequence[Any] | None
    voxel_size: VoxelSize
    table: dict[str, NDArray[Any]] | None
    place: Path
    """The folder in which the reviews of such layers lie."""
    name: str
    was: str | None
    """The type of the labels before they were copied, None for the same."""
    strokes: Sequence[Any]
    """What was painted on them until now, as napari keeps it."""


def is_ours(layer: Labels) -> bool:
    """Return whether the review may edit a layer in place.

    A duplicate says the same of where it comes from, but is the user's own.
    """
    is_made = role_of(layer) in ("instances", _REVIEWED) and outputs.is_ours(layer)
    data = layer.data
    is_array = isinstance(data, np.ndarray) and bool(data.flags.writeable)
    return is_made and is_array and data.ndim == 3 and data.dtype.kind in "iu"


def make_copy(layer: Labels) -> Callable[[], Labels]:
    """Return what copies a layer that is not ours; call that in a thread.

    Raises
    ------
    DataError
        If the layer holds no labels of a volume.
    """
    data, place, name = labels_array(layer), placement(layer), str(layer.name)
    origin = dict(layer.metadata.get(METADATA_KEY) or {})
    origin = {k: v for k, v in origin.items() if k in ("prediction", "model", "image")}

    def copy() -> Labels:
        array = np.array(data)
        was = str(array.dtype)
        if array.dtype.itemsize < 4:
            array = array.astype(np.int32)  # a split needs new ids
        if array.size and array.min() < 0:
            raise DataError(
                f"'{name}' has negative ids: ids of instances are above zero"
            )
        made = Labels(
            array,
            name=f"{name} (review)",
            opacity=0.5,
            metadata={
                METADATA_KEY: {**origin, "role": _REVIEWED, "of": name, "dtype": was}
            },
            **place.layer_options(),
        )
        outputs.claim(made)
        return made

    return copy


def request_for(viewer: Any, layer: Labels) -> Request:
    """Read what there is to know of a layer of ours.

    Raises
    ------
    DataError
        If its units are no lengths.
    """
    origin = layer.metadata.get(METADATA_KEY) or {}
    key = origin.get("prediction")
    is_predicted = origin.get("role") == "instances" and key is not None
    place = Path(str(key)) if is_predicted else runs_dir() / "reviews"
    of = str(origin.get("of", layer.name))
    return Request(
        layer.data,
        _find_maps(viewer, layer, key),
        voxel_size(layer),
        _table_of(layer) if is_predicted and not origin.get("edited") else None,
        place if place.is_dir() or not is_predicted else runs_dir() / "reviews",
        "review" if is_predicted else safe_name(of),
        _type_before(layer),
        strokes_of(layer),
    )


def _type_before(layer: Labels) -> str | None:
    """Return the type that a copy had as the user's layer, None for its own."""
    was = (layer.metadata.get(METADATA_KEY) or {}).get("dtype")
    is_widened = was in ("int8", "uint8", "int16", "uint16")
    return str(was) if is_widened and layer.data.dtype == np.int32 else None


def open_review(
    request: Request, helper: Helper, is_cancelled: Callable[[], bool] = lambda: False
) -> Opened:
    """Read everything and take up what was saved; call it in a thread.

    Parameters
    ----------
    is_cancelled
        Asked before the labels are changed.

    Raises
    ------
    DataError
        If the table cannot be made.
    Cancelled
        If nobody waits for the review any more; the labels are as they were.
    """
    labels_ZYX = request.labels_ZYX
    base_ZYX = without_strokes(labels_ZYX, request.strokes)
    base = fingerprint(base_ZYX, request.was)
    place = ReviewFolder(request.place / f"{request.name}-{base}", base)
    folder: ReviewFolder | None = place
    waiting, because, saved = None, "", None
    if not place.acquire():
        folder, waiting, because = None, place, _TAKEN
    else:
        try:
            saved = place.load()
        except DataError as error:
            place.release()
            folder, because = None, f"{error}. Nothing is saved meanwhile."
    table = request.table
    if table is None or not _describes(table, base_ZYX, request.voxel_size):
        table = _measure(replace(request, labels_ZYX=base_ZYX), helper)
    review = Review(labels_ZYX, table, request.voxel_size)
    if is_cancelled():
        if folder is not None:
            folder.release()
        raise Cancelled
    is_painted = _restore(review, base_ZYX, saved)
    message = because
    if saved is not None and (saved.steps or saved.marks or saved.strokes.size):
        message = (
            f"Taken up from the last time: {len(saved.steps)} steps, "
            f"{len(saved.marks)} instances with a status."
        )
    return Opened(
        review, request.maps, folder, message, because, waiting, is_unsaved=is_painted
    )


def _restore(review: Review, base_ZYX: Any, saved: Saved | None) -> bool:
    """Do what was saved; return whether something was painted before.

    That was painted on the labels as they were at first, and comes last.
    """
    labels_ZYX = review.labels_ZYX
    if base_ZYX is labels_ZYX:
        if saved is not None:
            review.restore(saved)
        return False
    places = np.nonzero(labels_ZYX != base_ZYX)
    painted = labels_ZYX[places]
    labels_ZYX[places] = base_ZYX[places]
    if saved is not None:
        review.restore(saved)
    old = labels_ZYX[places]
    labels_ZYX[places] = painted
    voxels = np.ravel_multi_index(places, labels_ZYX.shape).astype(np.int64)
    is_new = old != painted
    review.note_stroke(voxels[is_new], old[is_new], painted[is_new])
    return bool(is_new.any())


def take_again(opened: Opened) -> None:
    """Let a review that was left be saved again, or say why it is not."""
    place = opened.folder or opened.waiting
    if place is not None:
        opened.folder, opened.waiting, opened.unsaved_because = None, place, ""
        if not place.acquire():
            opened.unsaved_because = _TAKEN
        elif not place.is_as_left():
            place.release()
            opened.unsaved_because = _CHANGED
        else:
            opened.folder, opened.waiting = place, None
    opened.message = opened.unsaved_because


def _describes(
    table: dict[str, NDArray[Any]], labels_ZYX: Any, voxel_size: VoxelSize
) -> bool:
    """Return whether a table has every instance with its size.

    One instance says whether all were measured where they are, and with this voxel
    size.
    """
    index = table["index"]
    top = int(index.max(initial=0))
    if top > _TOP:
        return False
    sizes = np.zeros(top + 1, np.int64)
    for plane in labels_ZYX:
        if int(plane.max(initial=0)) > top:
            return False
        sizes += np.bincount(plane.ravel(), minlength=top + 1)
    sizes[0] = 0
    expected = np.zeros(top + 1, np.int64)
    expected[index] = table["voxels"]
    if (sizes != expected).any():
        return False
    if not len(index):
        return True
    row = int(np.argsort(table["voxels"])[len(index) // 2])
    box = {int(index[row]): box_of_row(table, row)}
    found = measure_instances(labels_ZYX, None, box, voxel_size)
    return all(
        np.allclose(found[name], table[name][row : row + 1], rtol=1e-4)
        and len(found[name]) == 1
        for name in ("volume_um3", "surface_um2", *"zyx")
    )


def _measure(request: Request, helper: Helper) -> dict[str, NDArray[Any]]:
    arrays = {"labels": np.asarray(request.labels_ZYX)}
    if request.maps is not None:
        arrays["maps"] = np.stack([np.asarray(m) for m in request.maps[:2]])
    return helper.ask("table", arrays, {"voxel_size": request.voxel_size})[0]


def _find_maps(viewer: Any, layer: Labels, key: object) -> Sequence[Any] | None:
    """Return the maps of the same prediction, else those that cover the same voxels."""
    shown = shown_predictions(viewer)
    for each in sorted(shown, key=lambda p: p.key != str(key)):
        mask = each.layers[next(iter(MAPS))]
        fits = tuple(mask.data.shape) == tuple(layer.data.shape)
        if fits and not placement(mask).differences(placement(plain(layer))):
            return each.maps
    return None


def _table_of(layer: Labels) -> dict[str, NDArray[Any]] | None:
    """Return the table that came with a prediction, if it is complete."""
    features = layer.features
    names = column_names()  # others are the status, and what the user added
    if not names <= set(features.columns):
        return None
    table = {name: features[name].to_numpy() for name in features if name in names}
    index = table["index"].astype(np.int64)
    if len(index) and (np.diff(index) <= 0).any():
        return None
    table["touches_border"] = table["touches_border"].astype(bool)
    return add_doubt({**table, "index": index})
