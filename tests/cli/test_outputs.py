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


@pytest.fixture
def home(tmp_path, monkeypatch):
    """The home folder, with files in it."""
    place = tmp_path / "home"
    place.mkdir()
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(place))
    for name in ("a.html", "a.png", "a.json", "a.h5"):
        (place / name).write_text("mine")
    return place


@pytest.mark.parametrize(
    "command",
    [
        ["compare", "a", "b", "--output=~/a.html"],
        ["compare", "a", "b", "--output=~/a.png"],
        ["find-lr", "quick", "--output=~/a.json"],
        ["find-lr", "quick", "--output=~/a.png"],
        ["predict", "model.safetensors", "em.h5:raw", "--output=~/a.h5"],
    ],
)
def test_what_is_in_the_home_folder_is_not_replaced_unasked(
    train_em, model, home, failure, command
):
    if command[0] == "compare":
        assert train_em("--name", "a") == train_em("--name", "b") == 0
    before = sorted(home.iterdir())
    assert "is there already: choose another -o" in failure(*command)
    assert sorted(home.iterdir()) == before
    assert {path.read_text() for path in before} == {"mine"}


def test_files_may_be_called_like_a_home_folder(em, model):
    em.rename("~somebody")
    output = "~somebody.h5"
    assert main(["predict", str(model), "~somebody:raw", "-o", output]) == 0
    assert main(["segment", output, "instances.mask=0.5"]) == 0
    assert main(["view", "~someone"]) == 2
    assert main(["train", "~someone"]) == 2
