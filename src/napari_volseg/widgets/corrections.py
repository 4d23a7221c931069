"""From a review to the next training: one button."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from napari.layers import Image, Labels
from numpy.typing import NDArray

from napari_volseg.config import Config
from napari_volseg.errors import DataError
from napari_volseg.geometry import Box, Size
from napari_volseg.review import Edit, Helper, ReviewFolder
from napari_volseg.review.corrections import (
    find_corrected,
    near,
    paint_annotation,
)
from napari_volseg.runs import is_run, read_run
from napari_volseg.runs.pairs import Role
from napari_volseg.volume import Volume
from napari_volseg.widgets.actions import open_dock
from napari_volseg.widgets.imageofreview import (
    image_of,
    is_whole,
    layer_of,
    open_images,
    part_layer,
    part_name,
    shared_boxes,
    whole_volume,
)
from napari_volseg.widgets.layers import METADATA_KEY, layer_source, placement
from napari_volseg.widgets.outputs import add_beside, free_name
from napari_volseg.widgets.readers import lazy
from napari_volseg.widgets.reviewing import Reviewing
from napari_volseg.widgets.threads import in_thread

__all__ = ["train_on_corrections"]

_PLAN = "plan.json"


@dataclass(frozen=True)
class _Painted:
    """Labels that say themselves where they count."""

    labels_ZYX: NDArray[np.signedinteger[Any]]
    background: int
    words: str
    role: Role
    corrected: tuple[Box, ...] = ()
    """Where a person changed instances."""


@dataclass(frozen=True)
class _Learnt:
    """A volume that the model learnt from, and what of it is for what."""

    image: Volume
    painted: tuple[_Painted, ...]
    source: str | None
    hidden_ZYX: NDArray[np.bool_]
    """Where the model was scored, and the guard around it."""


@dataclass(frozen=True)
class _Predicted:
    """The image whose instances are reviewed, and which of its voxels they cover."""

    layer: Image
    image: Volume
    names: frozenset[str]
    """What it is called, and was called when it was predicted."""
    source: str | None
    box: Box

    @property
    def part_names(self) -> set[str]:
        """What a training from corrections calls the part of the image in the box."""
        return {part_name(name, self.box) for name in self.names}


@dataclass(frozen=True)
class _Lesson:
    corrections: _Painted
    learnt: tuple[_Learnt, ...]
    layers: tuple[Image | None, ...]
    """Where the images of `learnt` are open already."""
    config: Config | None


def train_on_corrections(
    viewer: Any,
    reviewing: Reviewing,
    helper: Helper,
    told: Callable[[str], None],
    failed: Callable[[str], None],
) -> None:
    """Open the Train dock with what was accepted and corrected as one more pair.

    The volumes that the model learnt from are added again, with the parts it was
    scored on held out as they were; corrections there are left out. Training begins
    with the weights of the model.
    """
    labels = reviewing.layer
    origin = labels.metadata.get(METADATA_KEY) or {}
    found = image_of(viewer, labels, str(origin.get("image", "")))
    if found is None:
        failed("the image that was predicted is not open: open it again")
        return
    whole, box = found
    try:
        image = whole if is_whole(whole, box) else part_layer(viewer, whole, box)
        volume = whole_volume(whole)
    except DataError as error:
        failed(str(error))
        return
    model = Path(str(origin["model"])) if origin.get("model") else None
    names = frozenset({str(whole.name), str(origin.get("image", whole.name))})
    predicted = _Predicted(whole, volume, names, layer_source(whole), box)
    opened = open_images(viewer, whole)
    work = _prepare(reviewing, helper, model, predicted, opened)

    def take(lesson: _Lesson) -> None:
        _show(viewer, image, lesson, model)
        told("The Train dock has the corrections as one more pair: press Train there.")

    in_thread(work, take, failed, reviewing)


def _prepare(
    reviewing: Reviewing,
    helper: Helper,
    model: Path | None,
    predicted: _Predicted,
    opened: Sequence[tuple[Image, Volume]],
) -> Callable[[], _Lesson]:
    """Capture the review; what is returned does the rest, in a thread."""
    review, folder, maps = reviewing.review, reviewing.folder, reviewing.maps
    labels_ZYX = review.labels_ZYX.copy()
    accepted, steps, painted_N = review.accepted(), review.steps(), review.painted()
    voxel_size = review.voxel_size

    def work() -> _Lesson:
        arrays: dict[str, NDArray[Any]] = {"labels": labels_ZYX}
        if maps is not None:
            arrays["mask"] = np.asarray(maps[0])
        edits = [_edit_of(folder, entry) for entry in steps]
        deletions = [edit for edit in edits if edit.kind == "delete"]
        if any(edit.patches for edit in deletions):
            arrays["deleted"] = _voxels_of(deletions, labels_ZYX.shape)
        boxes = find_corrected(edits, painted_N, labels_ZYX.shape)
        options = {"accepted": accepted, "voxel_size": voxel_size}
        answer, values = helper.ask("corrections", arrays, options)
        corrected, background = answer["labels"], int(values["background"])
        learnt: tuple[_Learnt, ...] = ()
        layers: tuple[Image | None, ...] = ()
        config = None
        if model is not None and is_run(model.parent):
            config, learnt = _read_learnt(model.parent)
            layers = tuple(layer_of(each.image, opened) for each in learnt)
            is_it = [layer is predicted.layer for layer in layers]
            for hidden_ZYX in _hidden_from(predicted, learnt, is_it):
                corrected[hidden_ZYX] = 0
            if not (corrected % background).any():
                raise DataError(
                    "all that was accepted or corrected lies where the model is "
                    "scored, which is never learnt from: correct something elsewhere"
                )
        painted = _Painted(corrected, background, "corrections", "train", boxes)
        return _Lesson(painted, learnt, layers, config)

    return work


def _hidden_from(
    predicted: _Predicted, learnt: Sequence[_Learnt], is_it: Sequence[bool]
) -> list[NDArray[np.bool_]]:
    """Return where in the box of a predicted image corrections teach nothing.

    The image is known by its voxels, else by its name. Where neither is found, it may
    be any image of its shape, unless the files of both are known and differ. Parts of
    one file are known by their places in it.
    """
    fits = [
        i
        for i, each in enumerate(learnt)
        if each.image.shape_ZYX == predicted.image.shape_ZYX
    ]
    same = [i for i in fits if is_it[i]]
    named = [i for i in fits if learnt[i].image.name in predicted.names]
    unknown = [i for i in fits if predicted.source is None or learnt[i].source is None]
    known = same or named or unknown
    hidden = [learnt[i].hidden_ZYX[predicted.box.slices] for i in known]
    others = [each for i, each in enumerate(learnt) if i not in known]
    hidden += [_hidden_in_file(predicted, each) for each in others]
    parts = [
        each.hidden_ZYX
        for each in learnt
        if each.image.name in predicted.part_names
        and each.image.shape_ZYX == predicted.box.shape
    ]
    return hidden + parts


def _hidden_in_file(predicted: _Predicted, learnt: _Learnt) -> NDArray[np.bool_]:
    """Return what is hidden where both are parts of one file."""
    hidden_ZYX = np.zeros(predicted.box.shape, bool)
    if predicted.source is not None and learnt.source is not None:
        shared = shared_boxes(
            predicted.image,
            predicted.source,
            learnt.image,
            learnt.source,
            predicted.box,
        )
        if shared is not None:
            here, there = shared
            index = here.within(predicted.box)
            hidden_ZYX[index] = learnt.hidden_ZYX[there.slices]
    return hidden_ZYX


def _edit_of(folder: ReviewFolder | None, entry: Any) -> Edit:
    if entry.step is not None:
        return entry.step.edit  # type: ignore[no-any-return]
    return (
        Edit(entry.kind, entry.ids, ()) if folder is None else folder.read_edit(entry)
    )


def _voxels_of(edits: list[Edit], shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Return which voxels edits changed."""
    changed = np.zeros(shape, np.uint8)
    for edit in edits:
        for patch in edit.patches:
            changed[patch.box.slices] |= patch.mask_ZYX()
    return changed


def _read_learnt(folder: Path) -> tuple[Config, tuple[_Learnt, ...]]:
    """Return the settings of a run and the volumes that it learnt from.

    Raises
    ------
    DataError
        If the run, or an image of it, is gone.
    """
    config, pairs = read_run(folder)
    try:
        plan = json.loads((folder / _PLAN).read_text("utf-8"))
        held_out = [
            (int(h["pair"]), Box(tuple(h["box"]["start"]), tuple(h["box"]["stop"])))
            for h in plan["held_out"]
        ]
        guard = [int(n) for n in plan["guard"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{folder / _PLAN} cannot be read ({error}): nobody knows which part of "
            "the volumes the model was scored on"
        ) from error
    learnt = []
    for index, pair in enumerate(pairs):
        image, labels_ZYX = pair.volume.image, pair.volume.labels_ZYX
        painted, background = paint_annotation(labels_ZYX, pair.volume.annotated_ZYX)
        if pair.role == "val":
            is_scored = painted > 0
        else:
            is_scored = np.zeros(painted.shape, bool)
            for box in (box for i, box in held_out if i == index):
                is_scored[box.slices] = True
        around = near(is_scored, guard)
        rest, scored = np.where(around, 0, painted), np.where(is_scored, painted, 0)
        parts = [
            _Painted(rest, background, "learnt from", "train", pair.corrected),
            _Painted(scored, background, "held out", "val"),
        ]
        kept = tuple(p for p in parts if (p.labels_ZYX % p.background).any())
        learnt.append(_Learnt(image, kept, pair.source, around))
    return config, tuple(learnt)


def _show(viewer: Any, image: Image, lesson: _Lesson, model: Path | None) -> None:
    """Add the layers and fill the Train dock."""
    pairs: list[tuple[Any, Any, Role]] = []
    if image not in viewer.layers:
        add_beside(viewer, image)
    place = placement(image).layer_options()
    layer = _make(viewer, str(image.name), lesson.corrections, place)
    added: dict[tuple[str | None, str, Size], Image] = {}
    for learnt, shown in zip(lesson.learnt, lesson.layers, strict=True):
        key = learnt.source, learnt.image.name, learnt.image.shape_ZYX
        if shown is None or shown not in viewer.layers:
            shown = added.get(key) or _add_image(viewer, learnt)
            added[key] = shown
        options = placement(shown).layer_options()
        for painted in learnt.painted:
            made = _make(viewer, learnt.image.name, painted, options)
            pairs.append((shown, made, painted.role))
    pairs.append((image, layer, "train"))
    dock = open_dock(viewer, "Train")
    words = ""
    if lesson.config is not None and model is not None:
        weights = {"initial_weights": str(model)}
        settings = lesson.config.model.model_copy(update=weights)
        config = lesson.config.model_copy(update={"model": settings})
        dock.use_settings(config, f"{model.parent.name} corrected")
        words = " Training begins with the weights of the model."
        if any(role == "val" for _, _, role in pairs):
            words += " Both are scored on the same held-out voxels, side by side."
    dock.pairs.set_pairs(pairs)
    dock.message.show_text(f"{len(pairs)} pairs, the corrections last.{words}")


def _add_image(viewer: Any, learnt: _Learnt) -> Image:
    """Return a new layer of an image that is not open."""
    data: Any = learnt.image.data
    shown: Any = data if isinstance(data, np.ndarray) else lazy(data)
    origin = {}
    if learnt.source is not None and shown is not data:
        origin = {METADATA_KEY: {"source": learnt.source, "token": shown.name}}
    options: dict[str, Any] = {
        "scale": learnt.image.voxel_size,
        "units": ("nm",) * 3,
    }
    if shown.ndim == 4:
        options = {"scale": (1, *learnt.image.voxel_size), "units": ("", *("nm",) * 3)}
    layer = Image(
        shown, name=free_name(viewer, learnt.image.name), metadata=origin, **options
    )
    layer.visible = False
    add_beside(viewer, layer)
    return layer


def _make(
    viewer: Any, name: str, painted: _Painted, options: Mapping[str, Any]
) -> Labels:
    layer = Labels(
        painted.labels_ZYX,
        name=f"{name} · {painted.words}",
        opacity=0.4,
        visible=painted.words == "corrections",
        metadata={
            METADATA_KEY: {
                "role": painted.words,
                "background_id": painted.background,
                "corrected": painted.corrected,
            }
        },
        **options,
    )
    add_beside(viewer, layer)
    return layer
