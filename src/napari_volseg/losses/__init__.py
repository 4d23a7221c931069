"""Losses of the three maps, counted on known voxels only."""

from napari_volseg.losses.map_loss import Losses, MapLoss, build_loss
from napari_volseg.losses.perceptual import load_features

__all__ = ["Losses", "MapLoss", "build_loss", "load_features"]
