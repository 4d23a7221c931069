"""The prediction of a volume in blocks: its folder, its windows and its memory.

A job folder says what was predicted with what, so that any process can open it and
finished blocks count only while nothing of that has changed.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from torch import nn

from napari_volseg.blocks import BLOCK, BlockGrid, Ledger, choose_tile, hash_mask
from napari_volseg.checkpoint import Model, load_model
from napari_volseg.config import InferenceConfig
from napari_volseg.errors import DataError
from napari_volseg.forms import (
    Form,
    default_form,
    form_from_dict,
    list_forms,
    to_device,
)
from napari_volseg.forward import Forward
from napari_volseg.geometry import Box, Size
from napari_volseg.io import content_hash, create_zarr, write_json, writing
from napari_volseg.networks import N_MAPS, Resampled, fit_window
from napari_volseg.runs import read_prediction
from napari_volseg.volume import ArrayLike, Volume, intensity_range, normalise, reading
from napari_volseg.windows import WindowPlan, count_touching, plan_windows, slab_memory

__all__ = ["BLOCKS", "MAPS", "MapJob", "join_job", "prepare_maps"]

MAPS = "maps.zarr"
BLOCKS = "blocks"
"""Folder of the marks of finished blocks, within the job folder."""

_PLAN = "plan.json"
_FORM = "form.json"
_FORMAT = 1
_SLICES = 8


@dataclass(frozen=True, slots=True)
class MapJob:
    """All that predicting blocks of a job folder takes."""

    folder: Path
    image: Volume
    mask_ZYX: ArrayLike | None
    """Where to predict; the maps are 0 elsewhere."""
    forward: Forward
    inference: InferenceConfig
    window: Size
    range_C2: NDArray[np.float32]
    grid: BlockGrid
    maps: zarr.Array[Any]
    """uint8, axes CZYX; a block is a shard."""
    ledger: Ledger
    default_form: Form
    """The form of the forward pass where no other has proved to be faster."""
    exact: bool
    """Whether the model asks for float32."""
    has_form: bool
    """Whether a form was chosen for these blocks before."""
    notes: tuple[str, ...] = ()
    """What the user should know of old blocks."""
    _empty: dict[int, bool] = field(default_factory=dict)

    def in_form(self, form: Form) -> MapJob:
        """Return the same job with the forward pass in another form."""
        old = self.forward
        network = to_device(old.network, form.compute)
        forward = Forward(network, form, old.flips, old.batch_size)
        return replace(self, forward=forward)

    def remember_form(self) -> None:
        """Let whoever predicts blocks of this job, now or later, take its form."""
        write_json(self.folder / BLOCKS / _FORM, self.forward.form.to_dict())

    def plan(self, box: Box | None = None) -> WindowPlan:
        """Return the windows that touch a box, by default all."""
        return plan_windows(self.image.shape_ZYX, self.window, self.inference, box)

    def tiles(self, budget: int) -> list[list[int]]:
        """Return the blocks that are best predicted together, within a memory budget.

        Parameters
        ----------
        budget
            Bytes.
        """
        whole = self.plan()

        def visits(axis: int, start: int, stop: int) -> int:
            return count_touching(whole.starts[axis], self.window[axis], start, stop)

        def memory(size_YX: Collection[int]) -> int:
            y, x = size_YX
            return self._memory((y, x))

        return self.grid.tiles(choose_tile(self.grid, visits, memory, budget))

    def memory(self, block_ids: Iterable[int]) -> int:
        """Return the bytes that predicting some blocks together takes."""
        return self._memory(self.grid.around(block_ids).shape[1:])

    def _memory(self, size_YX: tuple[int, int]) -> int:
        host, device = slab_memory(self.plan(), self.image.n_channels, size_YX)
        levels = N_MAPS * prod(size_YX) * (2 * self.grid.block[0] + self.window[0])
        writing_ = 3 * N_MAPS * prod(self.grid.block)
        return host + levels + writing_ + (0 if self._has_own_memory else device)

    @property
    def _has_own_memory(self) -> bool:
        return self.forward.compute.device == "cuda"

    def is_empty(self, block_id: int) -> bool:
        """Return whether there is nothing to predict in a block."""
        if block_id not in self._empty:
            self._empty[block_id] = self._look(self.grid.box(block_id))
            if self._empty[block_id]:
                self.ledger.finish(block_id, None)
        return self._empty[block_id]

    def _look(self, box: Box) -> bool:
        if self.mask_ZYX is not None:
            with reading(f"the mask of {self.image.name}"):
                if not np.any(self.mask_ZYX[box.slices]):
                    return True
        if self.inference.skip_below <= 0:
            return False
        part_CZYX = self.image.read(box.slices)
        return all(
            normalise(part_CZYX[:, z : z + _SLICES], self.range_C2).max()
            < self.inference.skip_below
            for z in range(0, part_CZYX.shape[1], _SLICES)
        )

    def write(self, block_id: int, maps_CZYX: NDArray[np.uint8]) -> None:
        """Write a block whole, and then say that it is finished."""
        box = self.grid.box(block_id)
        if self.mask_ZYX is not None:
            maps_CZYX = maps_CZYX * (np.asarray(self.mask_ZYX[box.slices]) != 0)
        path = self.folder / MAPS
        with writing(path):
            self.maps[(slice(None), *box.slices)] = np.ascontiguousarray(maps_CZYX)
        place = (a // b for a, b in zip(box.start, self.grid.block, strict=True))
        self.ledger.finish(block_id, path.joinpath("0", "c", "0", *map(str, place)))


def prepare_maps(
    model_path: Path,
    model: Model,
    image: Volume,
    folder: Path,
    *,
    inference: InferenceConfig,
    device: str = "auto",
    mask_ZYX: ArrayLike | None = None,
    block: Size | None = None,
    resume: bool = False,
) -> MapJob:
    """Make ``maps.zarr`` in a job folder, or find it again.

    Parameters
    ----------
    model_path, model
        The file and what was loaded from it.
    mask_ZYX
        Non-zero where to predict; may be lazy.
    block
        Voxels of a block, `BLOCK` where None.
    resume
        Keep the blocks that are finished, given that model, image and settings are
        what they were then. Otherwise, all are made anew, and a note says so.

    Raises
    ------
    DataError
        If model and image do not fit together, or there are maps already that are not
        to be resumed.
    """
    check_fit(model, image, mask_ZYX)
    range_C2 = intensity_range(image, model.config.data.percentiles)
    grid = BlockGrid(image.shape_ZYX, block or BLOCK)
    window = _window(model, inference, image)
    plan = {
        "format": _FORMAT,
        "model": content_hash(str(model_path)),
        "shape": list(image.shape_ZYX),
        "dtype": str(image.data.dtype),
        "range": range_C2.tolist(),
        "window": list(window),
        "match_voxel_size": inference.match_voxel_size,
        "overlap": inference.overlap,
        "flips": inference.flips,
        "skip_below": inference.skip_below,
        "mask": None if mask_ZYX is None else hash_mask(mask_ZYX, grid),
        "block": list(grid.block),
    }
    notes: tuple[str, ...] = ()
    marks = folder / BLOCKS
    n_old = len(Ledger(marks).finished())
    has_maps = (folder / MAPS).exists()
    old = _read_plan(folder) if has_maps else None
    if n_old and not resume:
        raise DataError(
            f"{folder} holds {n_old} predicted blocks already: resume it "
            "(--resume), or start a new prediction"
        )
    if old != plan and (marks.exists() or (resume and has_maps)):
        if n_old:
            why = f"{_changed(old, plan)} since" if has_maps else f"{MAPS} is gone"
            notes = (f"The blocks predicted before are not kept, because {why}.",)
        _remove_old(folder)
        old = None
    if old is None:
        create_zarr(
            folder / MAPS,
            (N_MAPS, *image.shape_ZYX),
            np.dtype(np.uint8),
            image.voxel_size,
            name="maps",
            block=grid.block,
        )
        with writing(marks):
            marks.mkdir(mode=0o700, exist_ok=True)
        # Last: maps without a plan are begun anew.
        write_json(marks / _PLAN, plan)
    return _open(folder, model, image, inference, device, mask_ZYX, plan, notes)


def join_job(folder: Path, device: str) -> MapJob:
    """Return the job of a folder that was prepared, the same one when asked again.

    Raises
    ------
    DataError
        If it is not prepared, or its model has changed.
    """
    try:
        stamp = (folder / BLOCKS / _PLAN).stat().st_mtime_ns
    except OSError:
        raise DataError(
            f"{folder} is not prepared for blocks: start its prediction first"
        ) from None
    return _join(folder, device, stamp)


@lru_cache(maxsize=1)
def _join(folder: Path, device: str, stamp: int) -> MapJob:
    request = read_prediction(folder)
    model = load_model(request.model)
    plan = _read_plan(folder)
    if plan is None or plan["model"] != content_hash(str(request.model)):
        raise DataError(
            f"the model {request.model} has changed since {folder} was prepared: "
            "start the prediction anew"
        )
    return _open(
        folder,
        model,
        request.image,
        request.inference or model.config.inference,
        device,
        request.mask_ZYX,
        plan,
        (),
    )


def _open(
    folder: Path,
    model: Model,
    image: Volume,
    inference: InferenceConfig,
    device: str,
    mask_ZYX: ArrayLike | None,
    plan: dict[str, Any],
    notes: tuple[str, ...],
) -> MapJob:
    system = model.config.system.model_copy(update={"device": device})
    default = default_form(model.config.model_copy(update={"system": system}))
    exact = model.config.optimization.precision == "32"
    chosen = _read_form(folder)
    has_form = chosen in list_forms(default, inference.backend, exact=exact)
    form = chosen if chosen is not None and has_form else default
    window: Size = tuple(plan["window"])
    grid = BlockGrid(image.shape_ZYX, tuple(plan["block"]))
    windows = plan_windows(image.shape_ZYX, window, inference)
    network = to_device(_resampled(model, inference, window), form.compute)
    return MapJob(
        folder=folder,
        image=image,
        mask_ZYX=mask_ZYX,
        forward=Forward(network, form, windows.flips, inference.batch_size),
        inference=inference,
        window=window,
        range_C2=np.array(plan["range"], np.float32),
        grid=grid,
        maps=zarr.open_group(folder / MAPS, mode="r+")["0"],  # type: ignore[arg-type]
        ledger=Ledger(folder / BLOCKS),
        default_form=default,
        exact=exact,
        has_form=has_form,
        notes=notes,
    )


def check_fit(model: Model, image: Volume, mask_ZYX: ArrayLike | None) -> None:
    """Refuse an image that the model cannot take, or a mask of another shape."""
    if image.n_channels != model.in_channels:
        raise DataError(
            f"{image.name} has {image.n_channels} channels, but the model "
            f"{model.name} was trained on {model.in_channels}: choose the same channels"
        )
    if mask_ZYX is not None and tuple(mask_ZYX.shape) != image.shape_ZYX:
        raise DataError(
            f"the mask has the shape {tuple(mask_ZYX.shape)} but {image.name} has "
            f"{image.shape_ZYX}: they must cover the same voxels"
        )


def _window(model: Model, inference: InferenceConfig, image: Volume) -> Size:
    """Return the window in voxels of the image."""
    seen = _seen(model, inference)
    if not inference.match_voxel_size:
        return seen
    z, y, x = (
        max(1, round(n * theirs / ours))
        for n, theirs, ours in zip(
            seen, model.voxel_size, image.voxel_size, strict=True
        )
    )
    return z, y, x


def _seen(model: Model, inference: InferenceConfig) -> Size:
    """Return the window that the network is given."""
    wanted = inference.window_size or model.patch_size
    return fit_window(model.config.model, model.pyramid, wanted)


def _resampled(model: Model, inference: InferenceConfig, window: Size) -> nn.Module:
    seen = _seen(model, inference)
    return model.network if seen == window else Resampled(model.network, seen)


def _read_form(folder: Path) -> Form | None:
    try:
        return form_from_dict(json.loads((folder / BLOCKS / _FORM).read_text("utf-8")))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _read_plan(folder: Path) -> dict[str, Any] | None:
    try:
        plan = json.loads((folder / BLOCKS / _PLAN).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return plan if isinstance(plan, dict) else None


def _changed(old: dict[str, Any] | None, new: dict[str, Any]) -> str:
    if old is None:
        return "their plan is damaged"
    names = {
        "model": "the model has changed",
        "shape": "the image has changed",
        "dtype": "the image has changed",
        "range": "the image has changed",
        "mask": "the mask has changed",
    }
    for key in new:
        if old.get(key) != new[key]:
            return names.get(key, f"inference.{key} has changed")
    return "they were made by another version"


def _remove_old(folder: Path) -> None:
    with writing(folder), suppress(FileNotFoundError):
        (folder / BLOCKS / _PLAN).unlink()  # first: without it nothing counts
    for name in (MAPS, BLOCKS):  # marks last: maps with them are begun anew
        with writing(folder / name):
            if (folder / name).exists():
                shutil.rmtree(folder / name)
