"""Whether an image looks like those that a model learnt from.

A network knows the gray values, the noise and the fine structure that it was shown.
Here each channel is described by a few numbers, as the network sees it: normalised. A
model keeps those of its training images, and an image that is far from all of them is
told before it is predicted.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from math import log
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_volseg.volume import (
    Volume,
    VoxelSize,
    normalise,
    read_sample,
    sample_range,
)

__all__ = [
    "Intensities",
    "Known",
    "compare_intensities",
    "compare_looks",
    "describe_intensities",
    "intensities_from_json",
    "intensities_to_json",
    "noise_of",
]

_LEVELS = np.arange(1, 10) / 10
_STRONGEST = 0.03
"""Share of the places whose lines are looked at."""
_FEWEST_LINES = 50
_FAR = 0.23
"""Much of a mean distance between gray values of equal rank, where 1 is the range."""
_NOISIER = 2.9
"""Much of a ratio between the noise of two images."""
_NO_NOISE = 0.02
"""Noise that makes no difference, where 1 is the range."""
_MORE_LINES = 0.29
"""Much of a difference between shares of dark lines."""
_SAME_SIZE = 1.5
"""Ratio of voxel sizes up to which textures can be compared."""


@dataclass(frozen=True, slots=True)
class Intensities:
    """What one channel looks like once it is normalised."""

    deciles: tuple[float, ...]
    """The nine gray values below which lie a tenth, two tenths … of the voxels."""
    noise: float | None
    """Standard deviation of the noise between neighbours, where 1 is the range; None
    for images that are too small to tell."""
    dark_lines: float | None
    """Share of the strongest fine lines that are darker than what lies beside them;
    None where there are none."""

    @property
    def is_flat(self) -> bool:
        """Whether almost all voxels have one value."""
        return self.deciles[0] == self.deciles[-1]

    def inverted(self) -> Intensities:
        """Return what the negative of the channel looks like."""
        lines = None if self.dark_lines is None else 1 - self.dark_lines
        deciles = tuple(1 - value for value in reversed(self.deciles))
        return replace(self, deciles=deciles, dark_lines=lines)


Known = tuple[tuple[Intensities, ...], ...]
"""The channels of each training image."""


def describe_intensities(
    image: Volume, percentiles: tuple[float, float]
) -> tuple[Intensities, ...]:
    """Return what each channel of an image looks like to a network.

    Of a large image, slices or tiles that are spread over it are read, as
    `intensity_range` does. The result does not depend on chance.

    Parameters
    ----------
    image
        May be lazy.
    percentiles
        The quantiles of the intensity that are mapped to 0 and 1.

    Raises
    ------
    DataError
        If the image cannot be read, or has NaN.
    """
    sample = read_sample(image)
    range_C2 = sample_range(sample, percentiles, image.name)
    parts = [normalise(part, range_C2) for part in sample]
    return tuple(
        _describe([part[channel, 0] for part in parts])
        for channel in range(image.n_channels)
    )


def _describe(planes: Sequence[NDArray[np.float32]]) -> Intensities:
    values = np.concatenate([plane.reshape(-1) for plane in planes])
    noise, lines = noise_of(planes), _dark_lines(planes)
    return Intensities(
        deciles=tuple(np.quantile(values, _LEVELS).astype(float).round(4).tolist()),
        noise=None if noise is None else round(noise, 4),
        dark_lines=None if lines is None else round(lines, 4),
    )


def noise_of(planes: Iterable[NDArray[np.float32]]) -> float | None:
    """Estimate white noise from second differences along x, after Immerkær (1996).

    A smooth image has small second differences; noise of standard deviation s
    gives them one of s times the root of 6. The median keeps edges out.

    Parameters
    ----------
    planes
        Slices, whose last axis is x.

    Returns
    -------
    float or None
        The standard deviation; None when there are fewer than three voxels along x.
    """
    deviations = []
    for plane in planes:
        if plane.shape[-1] >= 3:
            second = plane[..., :-2] - 2 * plane[..., 1:-1] + plane[..., 2:]
            deviations.append(float(np.median(np.abs(second))))
    if not deviations:
        return None
    return float(np.median(deviations)) * 1.4826 / 6**0.5


def _dark_lines(planes: Sequence[NDArray[np.float32]]) -> float | None:
    """Return the share of dark ones among the strongest lines, two to four voxels wide.

    Membranes are dark lines in electron micrographs and bright ones where they are
    stained; gray values alone may be the same in a picture and its negative.
    """
    found = [_lines(plane).reshape(-1) for plane in planes if min(plane.shape) >= 6]
    if not found:
        return None
    lines = np.concatenate(found)
    strength = np.abs(lines)
    is_strong = strength >= max(np.quantile(strength, 1 - _STRONGEST), 1e-6)
    if np.count_nonzero(is_strong) < _FEWEST_LINES:
        return None
    return float(np.mean(lines[is_strong] > 0))


def _lines(plane: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return how much each place is part of a line: above zero where it is dark.

    A plane is curved across a line and straight along it, so that the mean of both
    curvatures is as large as half their difference. The smaller of the two is 0 on
    slopes, on tops and on saddles.
    """
    rows, columns = (n // 2 * 2 for n in plane.shape)
    small = plane[:rows, :columns].reshape(rows // 2, 2, columns // 2, 2).mean((1, 3))
    middle = 2 * small[1:-1, 1:-1]
    along_x = small[1:-1, 2:] + small[1:-1, :-2] - middle
    along_y = small[2:, 1:-1] + small[:-2, 1:-1] - middle
    mixed = small[2:, 2:] + small[:-2, :-2] - small[2:, :-2] - small[:-2, 2:]
    mean = (along_x + along_y) / 2
    difference = np.hypot((along_x - along_y) / 2, mixed / 4)
    result: NDArray[np.float32] = np.sign(mean) * np.minimum(np.abs(mean), difference)
    return result


def compare_intensities(
    image: Volume,
    known: Known,
    percentiles: tuple[float, float],
    voxel_size: VoxelSize,
) -> str | None:
    """Say how an image differs from what a model learnt from, if it differs much.

    Parameters
    ----------
    image
        As it would be predicted; may be lazy, only a sample of it is read.
    known
        What the model says of its training images; when it says nothing, nothing is
        read.
    percentiles
        Those that the model normalises with.
    voxel_size
        Of the training images. Noise and lines are compared where the voxels of
        slices are about as wide.

    Returns
    -------
    str or None
        A sentence that ends with what to do; None when one of the training images is
        like this one.

    Raises
    ------
    DataError
        If the image cannot be read, or has NaN.
    """
    known = tuple(each for each in known if len(each) == image.n_channels)
    if not known:
        return None
    look = describe_intensities(image, percentiles)
    ratio = np.divide(image.voxel_size[1:], voxel_size[1:])
    is_fine = bool((np.abs(np.log(ratio)) < log(_SAME_SIZE)).all())
    return compare_looks(image.name, look, known, is_fine=is_fine)


def compare_looks(
    name: str,
    look: Sequence[Intensities],
    known: Known,
    *,
    is_fine: bool = True,
) -> str | None:
    """Say how an image differs from all that are known, if it differs much.

    Parameters
    ----------
    name
        Of the image.
    look, known
        The channels of the image, and those of each known one: as many.
    is_fine
        Whether noise and lines can be compared, because voxels are about as wide.

    Returns
    -------
    str or None
        See `compare_intensities`.
    """

    def distance(new: Intensities, old: Intensities) -> float:
        return float(np.linalg.norm(_gaps(new, old, is_fine)))

    def farthest(old: Sequence[Intensities]) -> tuple[float, int]:
        return max((distance(look[i], old[i]), i) for i in range(len(look)))

    nearest = min(known, key=farthest)
    far, channel = farthest(nearest)
    if far <= 1:
        return None
    new, old = look[channel], nearest[channel]
    what = f"The image {name}"
    if len(look) > 1:
        what = f"Channel {channel} (of 0 to {len(look) - 1}) of {name}"
    if new.is_flat:
        return (
            f"{what} has the same gray value almost everywhere, so there may be "
            "nothing to find. Check that it is the right image, or predict a part "
            "that shows objects."
        )
    if min(distance(new.inverted(), each[channel]) for each in known) <= 1:
        return (
            f"{what} looks like a negative of what the model learnt from: "
            f"{_negative_words(new, old)}. Invert its values, not just its colormap, "
            "and predict that, or train on an annotated part of it."
        )
    return (
        f"{what} looks unlike what the model learnt from: "
        f"{_words(new, old, is_fine)}. Predict a small part first, and if objects are "
        "missed, train on an annotated part of it."
    )


def _gaps(
    new: Intensities, old: Intensities, is_fine: bool
) -> tuple[float, float, float]:
    """Return how far gray values, noise and lines are apart, 1 being a lot.

    Calibrated on real volumes: those of one kind and microscope are up to 0.6 apart,
    neurons of several electron microscopes 0.9, a volume and its negative at least
    1.1, and electron and fluorescence micrographs at least 1.3.
    """
    # The mean over ranks is the Wasserstein distance of the gray values.
    gray = float(np.abs(np.subtract(new.deciles, old.deciles)).mean())
    noise = lines = 0.0
    if is_fine and new.noise is not None and old.noise is not None:
        noise = abs(log((new.noise + _NO_NOISE) / (old.noise + _NO_NOISE)))
    if is_fine and new.dark_lines is not None and old.dark_lines is not None:
        lines = abs(new.dark_lines - old.dark_lines)
    return gray / _FAR, noise / log(_NOISIER), lines / _MORE_LINES


def _negative_words(new: Intensities, old: Intensities) -> str:
    shift = new.deciles[4] - old.deciles[4]
    if abs(shift) < _FAR:
        return _line_words(new, old)
    if shift < 0:
        return "most of it is dark, and most of the training images bright"
    return "most of it is bright, and most of the training images dark"


def _words(new: Intensities, old: Intensities, is_fine: bool) -> str:
    """Say what differs, the most first."""
    gaps = _gaps(new, old, is_fine)
    words = (_gray_words, _noise_words, _line_words)
    told = sorted(zip(gaps, words, strict=True), key=lambda each: -each[0])
    return " and ".join(say(new, old) for gap, say in told if gap > 0.5)


def _gray_words(new: Intensities, old: Intensities) -> str:
    shift = float(np.subtract(new.deciles, old.deciles).mean())
    if abs(shift) < _FAR / 4:
        return "its gray values are spread differently"
    return f"more of it is {'bright' if shift > 0 else 'dark'}"


def _noise_words(new: Intensities, old: Intensities) -> str:
    a, b = new.noise or 0.0, old.noise or 0.0
    return (
        f"it is {'noisier' if a > b else 'smoother'} (its noise is {_percent(a)} of "
        f"its range of gray values, not {_percent(b)})"
    )


def _line_words(new: Intensities, old: Intensities) -> str:
    a, b = new.dark_lines or 0.0, old.dark_lines or 0.0
    if a < 0.5 < b:
        return "its fine lines are bright, not dark"
    if b < 0.5 < a:
        return "its fine lines are dark, not bright"
    more = "more" if a > b else "fewer"
    return f"{more} of its fine lines are dark ({_percent(a)}, not {_percent(b)})"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def intensities_to_json(known: Known) -> list[list[dict[str, Any]]]:
    """Return plain JSON values."""
    return [
        [{**asdict(channel), "deciles": list(channel.deciles)} for channel in image]
        for image in known
    ]


def intensities_from_json(value: object) -> Known:
    """Return what a model says of its training images.

    Nothing where that cannot be read, because a model can be used without: an earlier
    version said nothing, and a later one may describe images in another way.
    """
    try:
        images: Any = value
        return tuple(tuple(_channel(fields) for fields in image) for image in images)
    except (TypeError, ValueError, KeyError, OverflowError):
        return ()


def _channel(fields: Any) -> Intensities:
    deciles = tuple(float(value) for value in fields["deciles"])
    noise, lines = (
        None if fields[key] is None else float(fields[key])
        for key in ("noise", "dark_lines")
    )
    numbers = [*deciles, noise or 0.0, lines or 0.0]
    if len(deciles) != len(_LEVELS) or not np.isfinite(numbers).all():
        raise ValueError("no description of a channel")
    if min(numbers[-2:]) < 0:
        raise ValueError("a share below zero")
    return Intensities(deciles, noise, lines)
