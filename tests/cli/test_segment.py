"""``volseg segment``: only the instances of a file are replaced."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import zarr

from napari_volseg.cli import main
from napari_volseg.io import read_labels

OTHER = ["instances.min_size=100000"]
ARRAYS = ("maps", "instances")


@pytest.fixture
def predicted(em, model):
    """Return a factory of outputs of `volseg predict`."""

    def predict(output: str) -> Path:
        assert main(["predict", str(model), "em.h5:raw", "-o", output]) == 0
        assert read_labels(f"{output}:instances").any()
        return Path(output)

    return predict


@pytest.mark.filterwarnings("ignore:Consolidated")
def test_what_others_wrote_into_a_zarr_group_stays(predicted):
    output = predicted("out.zarr")
    group = zarr.open_group(output)
    group.attrs["multiscales"] = {"of": "someone"}
    group.create_array("notes", data=np.arange(3))
    zarr.consolidate_metadata(output)
    node = json.loads((output / "zarr.json").read_text())
    model = node["attributes"]["volseg"]["model"]
    assert "consolidated_metadata" in node

    assert main(["segment", "out.zarr", *OTHER]) == 0

    group = zarr.open_group(output, mode="r")
    assert group.metadata.consolidated_metadata is None
    assert group.attrs["multiscales"] == {"of": "someone"}
    assert group.attrs["volseg"]["model"] == model
    assert group.attrs["volseg"]["instances"]["min_size"] == 100000
    assert list(group["notes"]) == [0, 1, 2]
    assert not read_labels("out.zarr:instances").any()


@pytest.mark.parametrize("text", [None, "{", "[1]"])
def test_a_group_that_cannot_be_written_is_left_as_it_was(predicted, failure, text):
    output = predicted("out.zarr")
    if text is None:
        maps, instances = (zarr.open_array(output / n / "0") for n in ARRAYS)
        old = zarr.open_group("old.zarr", mode="w", zarr_format=2)
        old.create_array("maps", data=maps[:])
        old.create_array("instances", data=instances[:])
        output = Path("old.zarr")
    else:
        (output / "zarr.json").write_text(text)
    before = contents(output)

    message = failure("segment", str(output), *OTHER)

    assert str(output) in message
    assert text is not None or "version 2 of Zarr" in message
    assert contents(output) == before


def contents(folder):
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("name", ["out.h5", "out.zarr"])
def test_a_link_stays_one_and_its_file_is_changed(predicted, tmp_path, name):
    stored = predicted(name).rename(tmp_path / name)
    link = Path(f"link{stored.suffix}")
    link.symlink_to(stored)

    assert main(["segment", str(link), *OTHER]) == 0

    assert link.is_symlink()
    assert not read_labels(f"{stored}:instances").any()
    assert sorted(os.listdir()) == ["em.h5", link.name, "model.safetensors"]


@pytest.mark.parametrize("name", ["out.h5", "out.zarr"])
def test_what_a_killed_process_left_is_removed_by_the_next(
    predicted, monkeypatch, tmp_path, name
):
    output, replace = predicted(name), os.replace

    class Killed(BaseException):
        """Takes the place of SIGKILL."""

    def die(source, target):
        if Path(target).resolve() in (output.resolve(), output.resolve() / "instances"):
            shutil.copytree(Path(), tmp_path / "then")
            raise Killed
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", die)
        with pytest.raises(Killed):
            main(["segment", name, *OTHER])
    assert sorted(os.listdir()) == ["em.h5", "model.safetensors", name]
    monkeypatch.chdir(tmp_path / "then")
    assert len(os.listdir()) == 4

    assert main(["segment", name, *OTHER]) == 0

    assert sorted(os.listdir()) == ["em.h5", "model.safetensors", name]
    assert not read_labels(f"{name}:instances").any()
