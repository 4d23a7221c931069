"""How different a predicted map looks to a network that has learnt to see."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from napari_volseg.checkpoint import load_model
from napari_volseg.errors import DataError
from napari_volseg.io import expand_home
from napari_volseg.losses.maps import ChannelMaps
from napari_volseg.losses.terms import Term
from napari_volseg.networks import RSUNet

__all__ = ["Features", "feature_distance", "load_features"]

_EPSILON = 1e-6


def load_features(path: str | Path) -> Features:
    """Return the frozen encoder of an earlier model of this program.

    Parameters
    ----------
    path
        Absolute path of a ``model.safetensors`` of RSUNet; reading it runs no code.

    Raises
    ------
    DataError
        If there is no such file, it is no intact model of this program, or its
        network is not RSUNet, or bins.
    """
    setting = "model.loss.perceptual_model"
    path = expand_home(path)
    if not path.is_absolute():
        raise DataError(
            f"{setting} is '{path}': give an absolute path, a run works in a folder "
            "of its own"
        )
    if path.suffix != ".safetensors":
        raise DataError(
            f"{setting} is {path}: choose the model.safetensors of an earlier run"
        )
    if not path.is_file():
        raise DataError(
            f"{setting}: there is no file {path}; choose the model.safetensors of an "
            "earlier run, or take the loss term 'perceptual' out"
        )
    model = load_model(path)
    if not isinstance(model.network, RSUNet):
        raise DataError(
            f"{setting}: the network of {path} is not RSUNet, or bins voxels; choose a "
            "model with model.architecture=rsunet and without model.binning"
        )
    return Features(model.network, model.in_channels)


class Features:
    """The encoder of a network; not a module, so that it is neither saved nor moved."""

    def __init__(self, network: RSUNet, in_channels: int) -> None:
        self._network = network.eval().requires_grad_(False)
        self._in_channels = in_channels
        self._device = torch.device("cpu")

    def __call__(self, map_B1ZYX: Tensor) -> list[Tensor]:
        """Return the feature maps of a padded map, finest first."""
        if map_B1ZYX.device != self._device:
            self._network.to(map_B1ZYX.device)
            self._device = map_B1ZYX.device
        return self._network.encode(map_B1ZYX.expand(-1, self._in_channels, -1, -1, -1))

    def pad(self, map_B1ZYX: Tensor) -> Tensor:
        """Append zeros until every edge is what the network takes."""
        z, y, x = (
            -n % m
            for n, m in zip(map_B1ZYX.shape[2:], self._network.multiple, strict=True)
        )
        return functional.pad(map_B1ZYX, (0, x, 0, y, 0, z))


def feature_distance(features: Features) -> Term:
    """Return the term that compares what the network sees in the two maps.

    On each level the squared difference of the features, which are scaled to length
    1 at every voxel (Zhang et al. 2018, arXiv:1801.03924), where there are known
    voxels; the mean over levels.
    """

    def term(maps: ChannelMaps) -> Tensor:
        known = features.pad(maps.known[:, None])
        predicted = features(features.pad(maps.probability[:, None]) * known)
        with torch.no_grad():
            true = features(features.pad(maps.target[:, None]) * known)
        distances = [
            _difference(one, other, known)
            for one, other in zip(predicted, true, strict=True)
        ]
        return torch.stack(distances).mean()

    return term


def _difference(one: Tensor, other: Tensor, known: Tensor) -> Tensor:
    z, y, x = one.shape[2:]
    weight = functional.adaptive_avg_pool3d(known, (z, y, x))
    difference = torch.square(_unit(one) - _unit(other)).sum(1, keepdim=True)
    return (difference * weight).sum() / weight.sum().clamp(min=_EPSILON)


def _unit(features_BCZYX: Tensor) -> Tensor:
    squares = torch.square(features_BCZYX).sum(1, keepdim=True)
    return features_BCZYX / (squares + _EPSILON).sqrt()
