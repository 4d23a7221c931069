"""Settings derived from the data, the machine and the time, each with its reason.

`choose_settings` is a pure function: the same numbers give the same settings.
The rules were fitted on the volumes named in ``docs/presets.md``; the idea of
deriving a configuration from a fingerprint is nnU-Net's (Isensee et al. 2021).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from napari_volseg.config import Config, apply_overrides, build_config
from napari_volseg.fingerprint import Fingerprint
from napari_volseg.geometry import Size
from napari_volseg.networks import (
    level_widths,
    nearest_patch,
    plan_pyramid,
    suited_filters,
)

__all__ = ["Choice", "Machine", "choose_settings", "training_cost"]

_MINUTES = {"cpu": 20.0, "mps": 20.0, "cuda": 30.0}
_PATCHES = 2000
"""Patches that a training should see at least."""
_SIZES_CPU = ((160_000, 32), (160_000, 24), (160_000, 16), (100_000, 16), (64_000, 16))
_SIZES_GPU = ((1_000_000, 32), (500_000, 32), (500_000, 24), *_SIZES_CPU)
"""Voxels of a patch and filters of the first level, from large to small."""
_WIDEST = 320
_SMALLEST_BOTTOM = 8
"""Edge of the feature maps at the deepest level, in voxels."""
_MOST_LEVELS = 6
_IN_VIEW = 4.0
"""Objects side by side that a patch should show."""
_FINE_ENOUGH = 16.0
"""Voxels along an object that are left of it after binning."""
_FEWEST_VOXELS = 200.0
"""Voxels that are left of a small object after binning."""
_MOST_BINNED = 4
_ALIKE = 1.5
"""Edges of voxels that differ by less are doubled together."""
_DENSE = 0.6
"""Share of foreground from which a tissue counts as filled with objects."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What a training can use."""

    device: str
    """``cpu``, ``cuda`` or ``mps``."""
    memory_bytes: int
    """Free on the device."""
    macs_per_second: float
    """Measured multiplications in a training step."""
    bytes_per_value: int
    """2 in half precision, else 4."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A setting that was derived."""

    setting: str
    """Dotted key."""
    value: Any
    reason: str
    """One sentence for the user."""


@dataclass(frozen=True, slots=True)
class _Size:
    patch_size: Size
    binning: Size
    filters: tuple[int, ...]
    n_patches: float
    """Patches that the time suffices for."""


def choose_settings(
    config: Config, fingerprint: Fingerprint, machine: Machine
) -> tuple[Config, tuple[Choice, ...]]:
    """Derive every setting that is not in ``config.automatic.kept``.

    Returns
    -------
    config, choices
        The configuration with the choices in it, no longer automatic.
    """
    kept = set(config.automatic.kept)
    minutes = config.optimization.max_minutes or _MINUTES[machine.device]
    size = _choose_size(config, fingerprint, machine, minutes)
    choices = [
        choice
        for choice in (
            *_network(size, fingerprint, machine, minutes),
            *_sampling(size, fingerprint),
            *_augmentation(fingerprint),
            *_schedule(machine, minutes),
            *_instances(fingerprint),
        )
        if choice.setting not in kept
    ]
    tree = config.model_dump(mode="json")
    tree["automatic"] = {"enabled": False, "kept": sorted(kept)}
    overrides = [f"{c.setting}={_yaml(c.value)}" for c in choices]
    return build_config(apply_overrides(tree, overrides)), tuple(choices)


def training_cost(config: Config, voxel_size: Sequence[float]) -> float:
    """Return the multiplications of one patch through RSUNet, forward and backward.

    The backward pass costs twice the forward pass.
    """
    filters, patch_size = level_widths(config.model), config.data.patch_size
    pyramid = plan_pyramid(config.model, voxel_size, patch_size)
    voxels = float(prod(patch_size) // prod(pyramid.binning))
    total: float = 0.0
    before = 1
    for level, (n, kernel) in enumerate(zip(filters, pyramid.kernels, strict=True)):
        is_deepest = level == len(filters) - 1
        convolutions = before * n + (2 if is_deepest else 5) * n * n
        total += voxels * float(prod(kernel)) * convolutions
        before = n
        if not is_deepest:
            voxels /= float(prod(pyramid.factors[level]))
    return 3.0 * float(total)


def _choose_size(
    config: Config, fingerprint: Fingerprint, machine: Machine, minutes: float
) -> _Size:
    """Take the largest patch and network that fit the memory and the time."""
    batch = _batch(config)
    sizes = _SIZES_GPU if machine.device == "cuda" else _SIZES_CPU
    for n_voxels, width in sizes:
        tree = config.model_dump(mode="json")
        if "model.binning" not in config.automatic.kept:
            tree["model"]["binning"] = choose_binning(fingerprint, n_voxels)
        binning: Size = tuple(tree["model"]["binning"])
        patch_size = choose_patch(fingerprint, n_voxels * prod(binning))
        filters = _choose_filters(patch_size, binning, width)
        if "data.patch_size" not in config.automatic.kept:
            tree["data"]["patch_size"] = patch_size
            tree["model"]["input_size"] = tree["model"]["output_size"] = None
        if "model.filters" not in config.automatic.kept:
            tree["model"]["filters"] = filters
            tree["model"]["down_factors"] = tree["model"]["kernel_sizes"] = None
        trial = _suited(build_config(tree), fingerprint.voxel_size)
        cost = training_cost(trial, fingerprint.voxel_size)
        size = _Size(
            trial.data.patch_size,
            trial.model.binning,
            trial.model.filters,
            minutes * 60 * machine.macs_per_second / cost,
        )
        activations = 12 * machine.bytes_per_value * batch * _features(size)
        if size.n_patches >= _PATCHES and activations < 0.7 * machine.memory_bytes:
            break
    return size


def _suited(config: Config, voxel_size: Sequence[float]) -> Config:
    """Return the configuration with derived filters and patch its network can have."""
    model, data, kept = config.model, config.data, config.automatic.kept
    if "model.filters" not in kept:
        model = model.model_copy(update={"filters": suited_filters(model)})
    if "data.patch_size" not in kept:
        patch_size = nearest_patch(model, voxel_size, data.patch_size)
        data = data.model_copy(update={"patch_size": patch_size})
    return config.model_copy(update={"model": model, "data": data})


def _batch(config: Config) -> int:
    given = config.system.training.batch_size
    is_kept = "system.training.batch_size" in config.automatic.kept
    return given if is_kept and isinstance(given, int) else 2


def _features(size: _Size) -> float:
    voxels = prod(size.patch_size) / prod(size.binning)
    return float(sum(f * voxels / 4**level for level, f in enumerate(size.filters)))


def choose_binning(fingerprint: Fingerprint, n_voxels: int) -> Size:
    """Return the voxels (z, y, x) to average, so that a patch shows several objects.

    The shortest edges of the voxels are doubled while a patch of `n_voxels` does not
    hold four objects side by side, each only where objects keep 16 voxels along it, and
    all only while small ones keep 200 in all.
    """
    binning: Size = (1, 1, 1)
    while max(binning) < _MOST_BINNED:
        patch = choose_patch(fingerprint, n_voxels * prod(binning))
        if min(patch[1:]) >= _IN_VIEW * max(fingerprint.extent[1:]):
            break
        edges = [v * b for v, b in zip(fingerprint.voxel_size, binning, strict=True)]
        # Sections are often few: objects too thin along z can be large within them.
        z, y, x = (
            2 * b
            if edge < _ALIKE * min(edges) and extent >= _FINE_ENOUGH * 2 * b
            else b
            for b, edge, extent in zip(binning, edges, fingerprint.extent, strict=True)
        )
        is_small = fingerprint.small_size / (z * y * x) < _FEWEST_VOXELS
        if is_small or (z, y, x) == binning:
            break
        binning = (z, y, x)
    return binning


def choose_patch(fingerprint: Fingerprint, n_voxels: int) -> Size:
    """Return a patch (z, y, x) of about `n_voxels` that is cubic in nm.

    No edge is longer than the volumes; what one axis cannot take goes to the
    others. Edges are multiples of 8, or of 2 where the volume is shallow.
    """
    longest = [max(shape[axis] for shape in fingerprint.shapes) for axis in range(3)]
    # Objects lie in any direction within a slice.
    longest[1] = longest[2] = max(longest[1:])
    free = {0, 1, 2}
    edges = [0.0, 0.0, 0.0]
    rest = float(n_voxels)
    while free:
        volume_nm = rest * prod(fingerprint.voxel_size[axis] for axis in free)
        edge_nm = volume_nm ** (1 / len(free))
        full = {a for a in free if edge_nm / fingerprint.voxel_size[a] >= longest[a]}
        for axis in full or free:
            edges[axis] = (
                longest[axis] if full else edge_nm / fingerprint.voxel_size[axis]
            )
            rest /= edges[axis]
        free -= full or free
    z, y, x = (_round_edge(e, n) for e, n in zip(edges, longest, strict=True))
    return z, y, x


def _round_edge(edge: float, longest: int) -> int:
    unit = 8 if longest >= 16 else 2 if longest >= 4 else 1
    return max(unit, min(round(edge / unit), longest // unit) * unit)


def _choose_filters(patch_size: Size, binning: Size, width: int) -> tuple[int, ...]:
    """Return filters that double from level to level, down to maps of 8 voxels."""
    levels = 2
    edge = max(n // b for n, b in zip(patch_size, binning, strict=True))
    while levels < _MOST_LEVELS and edge / 2**levels >= _SMALLEST_BOTTOM:
        levels += 1
    return tuple(min(width * 2**level, _WIDEST) for level in range(levels))


def _network(
    size: _Size, fingerprint: Fingerprint, machine: Machine, minutes: float
) -> Iterator[Choice]:
    seen = [
        p * v / 1000
        for p, v in zip(size.patch_size, fingerprint.voxel_size, strict=True)
    ]
    z, y, x = fingerprint.extent
    yield Choice(
        "data.patch_size",
        list(size.patch_size),
        f"About {'×'.join(f'{s:.3g}' for s in seen)} µm, as cubic as the volumes "
        f"allow; three objects in four fit into {z:.0f}×{y:.0f}×{x:.0f} voxels.",
    )
    yield Choice(
        "model.binning",
        list(size.binning),
        f"So that a patch shows {_IN_VIEW:g} objects side by side, as far as they stay "
        "large enough."
        if max(size.binning) > 1
        else "A patch shows several objects, or they are too small to be made smaller.",
    )
    yield Choice("model.architecture", "rsunet", "Learns fastest per minute here.")
    yield Choice(
        "model.filters",
        list(size.filters),
        f"{minutes:g} minutes on this {machine.device.upper()} suffice for about "
        f"{_rounded(size.n_patches)} patches of a network of this size.",
    )
    dense = fingerprint.foreground_share >= _DENSE
    yield Choice(
        "model.rsunet_norm",
        "batch" if dense else "group",
        "Objects fill the volume, so every batch is alike."
        if dense
        else "Patches differ in how much of them is object, and batches are small.",
    )
    yield Choice(
        "system.training.batch_size", 2, "Small batches take more steps in the time."
    )


def _sampling(size: _Size, fingerprint: Fingerprint) -> Iterator[Choice]:
    share = fingerprint.foreground_share
    yield Choice(
        "data.foreground",
        0.5 if share >= _DENSE else 0.7 if share < 0.2 else 0.6,
        f"Objects fill {share:.0%} of what is annotated.",
    )
    per_epoch = min(1280, max(80, round(size.n_patches / 30 / 20) * 20))
    yield Choice(
        "data.iter_num_per_epoch",
        per_epoch,
        "About thirty validations in the time.",
    )


def _augmentation(fingerprint: Fingerprint) -> Iterator[Choice]:
    noisy = fingerprint.noise > 0.08
    noise_words = f"Noise is {fingerprint.noise:.2g} of the range of intensity."
    yield Choice("augmentation.affine", 0.4, "Objects lie in any direction.")
    yield Choice(
        "augmentation.intensity", 0.7, "Brightness differs from volume to volume."
    )
    yield Choice("augmentation.noise", 0.4 if noisy else 0.2, noise_words)
    yield Choice("augmentation.blur", 0.3 if noisy else 0.15, noise_words)
    # Light cannot resolve voxels below 50 nm, so such volumes are electron micrographs.
    sections = fingerprint.anisotropy >= 2 and min(fingerprint.voxel_size[1:]) < 50
    why = (
        "Serial sections of electron microscopy: deep voxels of few nanometres."
        if sections
        else "These volumes are not serial sections of electron microscopy."
    )
    yield Choice("augmentation.missing_section", 0.1 if sections else 0.0, why)
    yield Choice("augmentation.shifted_section", 0.1 if sections else 0.0, why)


def _schedule(machine: Machine, minutes: float) -> Iterator[Choice]:
    yield Choice(
        "optimization.max_minutes",
        minutes,
        f"The usual time on a {machine.device.upper()}; more is better.",
    )
    yield Choice("optimization.max_epochs", 10_000, "The time decides.")
    yield Choice(
        "optimization.optimizer.lr", 0.002, "Short trainings need a high rate."
    )
    yield Choice(
        "optimization.scheduler.name",
        "warmup_cosine",
        "The rate falls to its lowest just when the time is up.",
    )


def _instances(fingerprint: Fingerprint) -> Iterator[Choice]:
    small = max(8, round(fingerprint.small_size / 4))
    yield Choice(
        "instances.min_size",
        small,
        f"A quarter of the smallest objects, which have {fingerprint.small_size:.0f} "
        "voxels.",
    )
    yield Choice(
        "instances.min_seed_size",
        min(8, max(1, round(fingerprint.small_size / 40))),
        "Seeds of small objects are small.",
    )
    yield Choice("inference.overlap", 0.5, "Windows that overlap by half blend best.")


def _rounded(value: float) -> int:
    digits = len(str(int(value))) - 2
    return int(round(value, -max(0, digits)))


def _yaml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
