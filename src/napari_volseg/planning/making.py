"""Settle everything about a training before its first step."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from math import ceil, prod
from pathlib import Path

import numpy as np

from napari_volseg.annotated import annotated_box
from napari_volseg.automatic import Choice, Machine, choose_settings
from napari_volseg.config import Config
from napari_volseg.devices import Compute, available_memory, choose_compute, choose_gpus
from napari_volseg.errors import DataError
from napari_volseg.fingerprint import Fingerprint, take_fingerprint
from napari_volseg.geometry import Size
from napari_volseg.networks import Pyramid, check_model, fit_patch, level_widths
from napari_volseg.planning.annotation import (
    annotated_share,
    count_instances,
    is_on_single_slices,
)
from napari_volseg.planning.plan import HeldOut, TrainPlan
from napari_volseg.runs import TrainingPair
from napari_volseg.sampling import plan_cache
from napari_volseg.speed import measure_speed
from napari_volseg.splitting import (
    choose_validation_boxes,
    guard_gap,
    hold_out_fold,
)
from napari_volseg.volume import LabelledVolume

__all__ = ["AUTO_BATCH", "plan_training", "with_batch"]

AUTO_BATCH = {"cpu": 4, "cuda": 16, "mps": 4}
"""Patches of one step of a process when the batch size is ``auto``."""


def plan_training(
    config: Config,
    pairs: Sequence[TrainingPair],
    folder: Path | None = None,
    *,
    n_ranks: int | None = None,
) -> TrainPlan:
    """Resolve a configuration against the data. Draws and allocates nothing.

    Parameters
    ----------
    config, pairs
        What is asked for, and what to learn from.
    folder
        The run folder, which data that do not fit into memory are copied to; by
        default the system's folder for temporary files.
    n_ranks
        Processes that a cluster's launcher started; None counts those that the
        configuration asks for.

    Raises
    ------
    DataError
        If there is nothing to train on, volumes do not fit together, or the
        device cannot do what is asked.
    """
    train = [p.volume for p in pairs if p.role == "train"]
    if not train:
        raise DataError(
            "there is nothing to train on: give at least one image with its labels"
        )
    compute = choose_compute(config)
    gpus = () if n_ranks else choose_gpus(config, compute.device)
    n_ranks = n_ranks or len(gpus) or config.system.training.num_processes
    batch_is_auto = config.system.training.batch_size == "auto"
    if batch_is_auto:
        config = with_batch(config, AUTO_BATCH[compute.device])
    _check_channels([p.volume for p in pairs])
    config, choices, fingerprint = _settle(config, train, compute)
    notices = _voxel_size_notices(train)
    check_model(config.model)
    voxel_size = train[0].image.voxel_size
    patch_size, pyramid = _fit_patch(config, train)
    if patch_size != config.data.patch_size:
        notices.append(
            f"Patches are {_by(patch_size)} voxels, not {_by(config.data.patch_size)}, "
            "to fit the volumes and the network."
        )
    sliced = all(is_on_single_slices(v) for v in train)
    flat = voxel_size[0] > 3 * max(voxel_size[1:])
    boundary = config.data.targets.boundary
    distance = config.data.targets.distance
    guard = guard_gap(patch_size)
    held_out = _hold_out(config, pairs)
    if not held_out:
        notices.append(
            "Nothing is held out for validation: the best model is the one with the "
            "lowest training loss, and its score on new data is unknown."
        )
    memory = _estimate_memory(config, patch_size, compute)
    free = available_memory(compute.device)
    on_cpu = compute.device == "cpu"
    cache = plan_cache(
        config.data.cache,
        train,
        patch_size,
        (available_memory("cpu") - (memory if on_cpu else 0)) // n_ranks,
        folder or Path(tempfile.gettempdir()),
    )
    if cache.mode != "ram":
        notices.append(cache.reason)
    if on_cpu:
        memory += cache.memory_bytes
    if memory > free:
        notices.append(
            f"Training needs about {memory / 1e9:.1f} GB and {free / 1e9:.1f} GB are "
            "free: if it runs out of memory, halve system.training.batch_size."
        )
    micro_batches = config.optimization.accumulate_grad_batches * n_ranks
    per_step = config.system.training.patches_per_batch * micro_batches
    return TrainPlan(
        config=config,
        compute=compute,
        in_channels=train[0].image.n_channels,
        voxel_size=voxel_size,
        patch_size=patch_size,
        pyramid=pyramid,
        boundary=("2d" if flat or sliced else "3d") if boundary == "auto" else boundary,
        distance=("2d" if sliced else "3d") if distance == "auto" else distance,
        steps_per_epoch=ceil(config.data.iter_num_per_epoch / per_step),
        held_out=held_out,
        guard=guard,
        n_instances=sum(count_instances(v) for v in train),
        n_held_out_instances=sum(
            count_instances(pairs[h.pair].volume, h.box) for h in held_out
        ),
        annotated_share=annotated_share(train),
        memory_bytes=memory,
        cache=cache,
        notices=tuple(notices),
        gpus=gpus,
        n_ranks=n_ranks,
        micro_batches=micro_batches,
        batch_is_auto=batch_is_auto,
        choices=choices,
        fingerprint=fingerprint,
    )


def with_batch(config: Config, patches: int, accumulate: int | None = None) -> Config:
    """Return the configuration with another batch, and accumulation where given."""
    training = config.system.training.model_copy(update={"batch_size": patches})
    optimization = config.optimization
    if accumulate is not None:
        optimization = optimization.model_copy(
            update={"accumulate_grad_batches": accumulate}
        )
    return config.model_copy(
        update={
            "system": config.system.model_copy(update={"training": training}),
            "optimization": optimization,
        }
    )


def _settle(
    config: Config, volumes: Sequence[LabelledVolume], compute: Compute
) -> tuple[Config, tuple[Choice, ...], Fingerprint | None]:
    """Derive the settings of an automatic configuration."""
    if not config.automatic.enabled:
        return config, (), None
    machine = Machine(
        compute.device,
        available_memory(compute.device),
        measure_speed(compute),
        bytes_per_value=4 if compute.precision == "32" else 2,
    )
    fingerprint = take_fingerprint(volumes, config.data.percentiles)
    return *choose_settings(config, fingerprint, machine), fingerprint


def _by(size: Sequence[int]) -> str:
    return "×".join(map(str, size))


def _check_channels(volumes: Sequence[LabelledVolume]) -> None:
    first = volumes[0].image
    for volume in volumes[1:]:
        if volume.image.n_channels != first.n_channels:
            raise DataError(
                f"{volume.image.name} has {volume.image.n_channels} channels but "
                f"{first.name} has {first.n_channels}: all volumes of a run need the "
                "same channels"
            )


def _voxel_size_notices(volumes: Sequence[LabelledVolume]) -> list[str]:
    first = volumes[0].image
    return [
        f"{v.image.name} has voxels of {_by_nm(v.image.voxel_size)} nm, "
        f"{first.name} of {_by_nm(first.voxel_size)} nm; the network sees voxels, "
        "so objects differ in size between them."
        for v in volumes[1:]
        if not np.allclose(v.image.voxel_size, first.voxel_size, rtol=0.1)
    ]


def _by_nm(voxel_size: Sequence[float]) -> str:
    return "×".join(f"{v:g}" for v in voxel_size)


def _fit_patch(
    config: Config, volumes: Sequence[LabelledVolume]
) -> tuple[Size, Pyramid]:
    largest = np.max([v.image.shape_ZYX for v in volumes], axis=0)
    return fit_patch(
        config.model,
        volumes[0].image.voxel_size,
        config.data.patch_size,
        largest,
        config.system.training.patches_per_batch,
    )


def _hold_out(config: Config, pairs: Sequence[TrainingPair]) -> tuple[HeldOut, ...]:
    given = [
        HeldOut(i, annotated_box(p.volume))
        for i, p in enumerate(pairs)
        if p.role == "val"
    ]
    data = config.data
    if data.folds or data.fold:
        if given:
            raise DataError(
                "data.folds divides the training images: leave out the validation "
                "images, or set data.folds=0"
            )
        fold = hold_out_fold([p.volume for p in pairs], data.folds, data.fold)
        return tuple(HeldOut(i, box) for i, box in fold)
    if given or data.val_fraction == 0:
        return tuple(given)
    return tuple(
        HeldOut(i, box)
        for i, p in enumerate(pairs)
        for box in choose_validation_boxes(p.volume, data.val_fraction)
    )


def _estimate_memory(config: Config, patch_size: Size, compute: Compute) -> int:
    """Estimate the peak of the network: activations kept for the backward pass.

    About a dozen tensors of every level's width are alive at the peak; measured
    with RSUNet in bfloat16 on a CPU, the estimate was within a factor of 1.5.
    """
    width = 2 if compute.precision != "32" else 4
    voxels = prod(patch_size) * config.system.training.patches_per_batch
    voxels //= prod(config.model.binning)
    widths = level_widths(config.model)
    features = sum(f / 4**level for level, f in enumerate(widths))
    activations = 12 * features * voxels * width
    parameters = sum(16 * 27 * 8 * f * f for f in widths)
    return int(activations + parameters)
