"""Where commands may write: never over what they read."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from napari_volseg.cli import main
from napari_volseg.io import read_labels, write_hdf5, write_volume_zarr

OVER = "would write over an input"
INSIDE = "one lies in the other"


@pytest.mark.parametrize("more", [["--overwrite"], ["--resume"]])
@pytest.mark.parametrize("name", ["em.h5", "./em.h5", "link.h5", "other/em.h5"])
def test_predict_never_writes_over_its_image(em, model, failure, name, more):
    Path("link.h5").symlink_to(em)
    Path("other").symlink_to(em.parent)
    before = em.read_bytes()

    assert OVER in failure("predict", str(model), "em.h5:raw", "-o", name, *more)

    assert em.read_bytes() == before


def test_predict_never_writes_over_the_mask_or_another_image(em, model, failure):
    ask = ["predict", str(model), "em.h5:raw", "--overwrite", "-o"]
    shape = read_labels("em.h5:labels").shape
    write_hdf5("mask.h5", {"mask": np.ones(shape, np.uint8)}, (1, 1, 1))
    assert OVER in failure(*ask, "mask.h5", "--mask", "mask.h5")
    shutil.copy(em, "em_volseg.h5")
    assert OVER in failure("predict", str(model), "em*.h5:raw", "--overwrite")
    os.rename(model, "model.h5")
    assert OVER in failure("predict", "model.h5", "em.h5:raw", *ask[3:], "model.h5")


def test_predict_never_writes_into_its_image_or_around_it(em, cells, model, failure):
    image = Path("raw.zarr")
    write_volume_zarr(image, {"raw": cells.image.data}, cells.image.voxel_size)
    before = sorted(image.rglob("*"))
    ask = ["predict", str(model), "--overwrite", "-o"]

    assert OVER in failure(*ask, "raw.zarr", "raw.zarr:raw")
    assert INSIDE in failure(*ask, "raw.zarr/out.zarr", "raw.zarr:raw")
    assert INSIDE in failure(*ask, "raw.zarr", "raw.zarr/raw")

    assert sorted(image.rglob("*")) == before
    assert main([*ask, "raw.h5", "raw.zarr:raw"]) == 0
