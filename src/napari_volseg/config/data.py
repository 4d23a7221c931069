"""Settings of what a run learns from."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from napari_volseg.config.fields import (
    Fraction,
    PadSize,
    PatchSize,
    PositiveInt,
    Section,
    Sources,
    VoxelSize,
)

__all__ = ["DataConfig", "TargetsConfig"]


class TargetsConfig(Section):
    """How training targets are made from labels."""

    boundary: Literal["auto", "3d", "2d"] = "auto"
    """Boundary between neighbours in space (3d) or within each slice (2d); auto takes 2d for voxels over three times deeper than wide and for annotation on single slices."""
    distance: Literal["auto", "3d", "2d"] = "auto"
    """Distance to the object's surface in space (3d) or within each slice (2d); auto takes 2d only for annotation on single slices."""
    boundary_nm: Annotated[float, Field(ge=0)] = 0.0
    """Thickness of the boundary in nm; never thinner than one voxel on either side, which 0 asks for."""
    distance_kind: Literal["depth", "signed", "skeleton"] = "depth"
    """Depth in each object relative to its deepest point, the same with the surface at one half and falling outside (signed), or nearness to the object's middle line (skeleton, for long thin objects)."""


class DataConfig(Section):
    """What a run learns from."""

    train_image: Sources = ()
    """Training images: paths or globs, path[:dataset][slices]."""
    train_label: Sources = ()
    """Instance labels of the training images, in the same order."""
    train_mask: Sources = ()
    """Masks of the annotated region of each training image; none means everywhere."""
    val_image: Sources = ()
    """Images for validation; without them a part of the training images is held out."""
    val_label: Sources = ()
    """Instance labels of the validation images."""
    val_mask: Sources = ()
    """Masks of the annotated region of each validation image."""
    test_image: Sources = ()
    """Images that volseg test predicts; without them, the validation images."""
    test_label: Sources = ()
    """Instance labels of the test images, to score the prediction with."""
    test_mask: Sources = ()
    """Where each test image is predicted and scored; none means everywhere."""
    annotated: Literal["everywhere", "painted_slices", "painted_voxels"] = "everywhere"
    """Which voxels count as annotated: all, all of every slice with paint, or only painted voxels."""
    background_id: Annotated[int, Field(ge=0)] = 0
    """Label id painted to mean background; 0 when background is simply unpainted."""
    voxel_size: VoxelSize | None = None
    """Voxel size (z, y, x) in nm, in place of what the files say."""
    patch_size: PatchSize = (32, 128, 128)
    """Size (z, y, x) in voxels of the crops the network learns from."""
    pad_size: PadSize = (0, 0, 0)
    """Reflected margin (z, y, x) in voxels around each training image."""
    percentiles: tuple[Fraction, Fraction] = (0.05, 0.95)
    """Quantiles of the whole image that are mapped to 0 and 1; values beyond are compressed. Where both are one value, wider ones take their place."""
    iter_num_per_epoch: PositiveInt = 1280
    """Patches drawn per epoch."""
    foreground: Fraction = 0.7
    """Share of patches centred on a labelled object; the rest fall anywhere annotated."""
    rare_instances: Fraction = 0.0
    """Of the patches centred on an object, the share that first choose a size class, so that rare sizes are seen as often as common ones."""
    boundary_aware: Fraction = 0.0
    """Share of patches centred where two objects touch, or on a boundary where none do; foreground divides the rest."""
    new_labels: Fraction = 0.5
    """Share of patches centred where labels changed, in the epoch after a training took new ones."""
    corrections: Fraction = 0.25
    """Share of patches centred where a review corrected instances, all through a training from corrections; foreground and the like divide the rest."""
    volume_weights: Literal["annotated", "foreground", "equal"] = "annotated"
    """Volumes are drawn from by their annotated voxels, by their labelled voxels, or equally often."""
    cache: Literal["auto", "ram", "disk", "chunks"] = "auto"
    """Where training volumes are kept: in memory, copied to the run folder's disk, or left in their files and read in parts; auto takes the first that has room."""
    val_fraction: Annotated[float, Field(ge=0, le=0.5)] = 0.15
    """Share of the annotation held out for validation when no validation images are given."""
    folds: Annotated[int, Field(ge=0, le=100)] = 0
    """Parts that the annotation is divided into for cross-validation, one of them held out; 0 holds out val_fraction."""
    fold: Annotated[int, Field(ge=0)] = 0
    """Which of the folds is held out, from 0."""
    targets: TargetsConfig = TargetsConfig()

    @model_validator(mode="after")
    def _check_percentiles(self) -> DataConfig:
        if self.percentiles[0] >= self.percentiles[1]:
            raise ValueError("percentiles must rise, for instance [0.05, 0.95]")
        return self
