"""``volseg predict --resume``: what was finished is found again."""

import json
import os
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from napari_volseg import worker
from napari_volseg.cli import main
from napari_volseg.cli import predict as command
from napari_volseg.cli.maps_file import read_thresholds
from napari_volseg.io import hdf5_writing, write_hdf5

ARGUMENTS = ["em.h5:raw", "-o", "out.h5"]


def begin(arguments, monkeypatch):
    """Begin a prediction that ends after its first block."""

    def fail(folder, should_stop, resume=False, scheduler=None):
        (folder / "blocks").mkdir()
        (folder / "blocks" / "000000.done").touch()
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(worker, "_predict", fail)
        assert main(arguments) == 1


@pytest.fixture
def killed(em, model, monkeypatch, capsys):
    """A prediction that ended after its first block."""
    engine = worker._predict
    begin(["predict", str(model), *ARGUMENTS], monkeypatch)
    assert "go on with --resume" in capsys.readouterr().err
    asked = []

    def note(folder, should_stop, resume=False, scheduler=None):
        asked.append((folder, resume))
        return engine(folder, should_stop, resume)

    monkeypatch.setattr(worker, "_predict", note)
    return asked


def test_a_prediction_goes_on_and_leaves_only_the_output(killed, model, capsys):
    assert (Path("out.h5.unfinished") / "em.h5-raw" / "request.json").exists()
    assert main(["predict", str(model), *ARGUMENTS, "--resume"]) == 0
    assert [resume for _, resume in killed] == [True]
    assert sorted(os.listdir()) == ["em.h5", "model.safetensors", "out.h5"]
    capsys.readouterr()
    assert main(["predict", str(model), *ARGUMENTS, "--resume"]) == 0
    assert "is complete" in capsys.readouterr().err
    assert len(killed) == 1


def test_nothing_is_thrown_away_unasked(killed, model, capsys):
    assert main(["predict", str(model), *ARGUMENTS]) == 2
    assert "--resume, or start anew with --overwrite" in capsys.readouterr().err
    other = ["inference.overlap=0.5", "--resume"]
    assert main(["predict", str(model), *ARGUMENTS, *other]) == 2
    assert "another settings of inference" in capsys.readouterr().err
    assert not killed
    assert main(["predict", str(model), *ARGUMENTS, "--overwrite"]) == 0
    assert [resume for _, resume in killed] == [False]
    assert not Path("out.h5.unfinished").exists()


def test_a_folder_of_the_users_is_not_touched(em, model, capsys):
    Path("out.h5.unfinished").mkdir()
    Path("out.h5.unfinished/thesis.txt").write_text("all of it")
    assert main(["predict", str(model), *ARGUMENTS]) == 2
    assert "is in the way" in capsys.readouterr().err
    assert Path("out.h5.unfinished/thesis.txt").read_text() == "all of it"


class Killed(BaseException):
    """Takes the place of SIGKILL."""


def test_a_kill_in_the_middle_of_the_clean_up_keeps_the_output(
    killed, model, monkeypatch, capsys
):
    remove = shutil.rmtree

    def die(path, ignore_errors=False):
        for maps in Path(path).glob("*/maps.zarr"):
            remove(maps / "0")
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", die)
        with pytest.raises(Killed):
            main(["predict", str(model), *ARGUMENTS, "--resume"])
    expected = Path("out.h5").read_bytes()

    assert main(["predict", str(model), *ARGUMENTS, "--resume"]) == 0

    assert "is complete" in capsys.readouterr().err
    assert Path("out.h5").read_bytes() == expected
    assert len(killed) == 1
    assert sorted(os.listdir()) == ["em.h5", "model.safetensors", "out.h5"]


@pytest.mark.parametrize("more", [[], ["--resume"]])
def test_a_kill_while_an_hdf5_output_is_written_leaves_nothing_beside_it(
    em, model, monkeypatch, tmp_path, more
):
    ask = ["predict", str(model), *ARGUMENTS]

    def die(*arguments):
        shutil.copytree(Path(), tmp_path / "then")
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(hdf5_writing, "add_dataset", die)
        with pytest.raises(Killed):
            main(ask)
    monkeypatch.chdir(tmp_path / "then")
    assert list(Path().rglob(".volseg-*.h5"))

    assert main([*ask, *more]) == 0

    assert sorted(os.listdir()) == ["em.h5", "model.safetensors", "out.h5"]


@pytest.mark.parametrize("n_moved", range(5))
def test_a_kill_while_a_zarr_output_is_made_costs_nothing(
    em, model, monkeypatch, capsys, n_moved
):
    ask = ["predict", str(model), "em.h5:raw", "-o", "out.zarr"]
    remove, replace = command.remove, os.replace
    moved = []

    def move(source, target):
        if "output.zarr" in (Path(source).name, Path(target).parent.name):
            if len(moved) == n_moved:
                raise Killed
            moved.append(source)
        return replace(source, target)

    def clean_up(place):
        if moved:
            raise Killed
        remove(place)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", move)
        patch.setattr(os, "replace", move)
        patch.setattr(command, "remove", clean_up)
        with pytest.raises(Killed):
            main(ask)
    assert len(moved) == n_moved
    assert Path("out.zarr").exists() == (n_moved == 4)
    capsys.readouterr()

    assert main([*ask, "--resume"]) == 0

    assert sorted(os.listdir()) == ["em.h5", "model.safetensors", "out.zarr"]
    assert main(["segment", "out.zarr", "instances.mask=0.6"]) == 0


def write_mask(name, shape, stop):
    mask = np.zeros(shape, np.uint8)
    mask[:stop] = 7
    write_hdf5(Path(name), {"mask": mask}, (1, 1, 1))


@pytest.fixture
def shape(em):
    with h5py.File(em) as file:
        return file["labels"].shape


@pytest.mark.parametrize("begun", [[], ["--mask", "one.h5"]])
def test_another_mask_is_refused(em, shape, model, monkeypatch, capsys, begun):
    for name, stop in (("one.h5", 2), ("same.h5", 2), ("other.h5", 3)):
        write_mask(name, shape, stop)
    ask = ["predict", str(model), *ARGUMENTS]
    begin(ask + begun, monkeypatch)

    for other in ([], ["--mask", "one.h5"], ["--mask", "other.h5"]):
        if other != begun:
            capsys.readouterr()
            assert main([*ask, *other, "--resume"]) == 2
            assert "another mask: give the same" in capsys.readouterr().err
    same = ["--mask", "same.h5"] if begun else []
    assert main([*ask, *same, "--resume"]) == 0


@pytest.mark.parametrize("begun", [[], ["--voxel-size", "40", "9", "9.1"]])
def test_another_voxel_size_is_refused(em, model, monkeypatch, capsys, begun):
    ask = ["predict", str(model), *ARGUMENTS]
    begin(ask + begun, monkeypatch)

    for other in ([], ["--voxel-size", "40", "9", "9.1"], ["--voxel-size", *"123"]):
        if other != begun:
            capsys.readouterr()
            assert main([*ask, *other, "--resume"]) == 2
            assert "another voxel size: give the same" in capsys.readouterr().err
    assert main([*ask, *begun, "--resume"]) == 0


@pytest.mark.parametrize("output", ["out.h5", "out.zarr"])
def test_what_is_complete_is_answered_as_when_it_was_made(em, model, capsys, output):
    ask = ["predict", str(model), "em.h5:raw", "-o", output, "--json"]
    assert main([*ask, "instances.min_size=6"]) == 0
    made = json.loads(capsys.readouterr().out)

    assert main([*ask, "--resume"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        **made,
        "message": "It was complete.",
    }

    assert main(["segment", output, "instances.min_size=100000"]) == 0
    capsys.readouterr()
    assert main([*ask, "--resume"]) == 0
    assert json.loads(capsys.readouterr().out)["n_instances"] == 0


@pytest.mark.parametrize("output", ["out.h5", "out.zarr"])
def test_what_was_made_in_another_way_is_not_called_complete(
    em, model, failure, output
):
    ask = ["predict", str(model), "em.h5:raw", "-o", output]
    masked = ["--mask", "em.h5:labels"]
    assert main([*ask, *masked, "inference.overlap=0.125"]) == 0
    made = [*ask, *masked, "inference.overlap=0.125", "--resume"]
    assert main(made) == 0
    as_made = f"instances.min_size={read_thresholds(Path(output)).min_size}"
    assert main([*made, as_made, "inference.batch_size=2"]) == 0

    assert "with other settings of inference" in failure(*ask, *masked, "--resume")
    other = failure(*ask, "inference.overlap=0.125", "--resume")
    assert "with another mask" in other
    assert "of voxels of" in failure(*made, "--voxel-size", "60", "8", "8")
    again = failure(*made, "instances.min_size=100000")
    assert (
        f"volseg segment {Path(output).absolute()} instances.min_size=100000" in again
    )


def test_all_of_a_glob_are_answered(em, model, capsys):
    shutil.copy(em, "em2.h5")
    assert main(["predict", str(model), "em2.h5:raw"]) == 0
    capsys.readouterr()
    assert main(["predict", str(model), "e*[2m].h5:raw", "--resume", "--json"]) == 0
    out, err = capsys.readouterr()
    names = [Path(answer["path"]).name for answer in json.loads(out)]
    assert names == ["em2_volseg.h5", "em_volseg.h5"]
    assert err.count("is complete") == 1


def test_another_file_is_not_called_complete(em, model, failure):
    ask = ["predict", str(model), "em.h5:raw", "--resume", "-o"]
    assert main(["predict", str(model), "em.h5:raw", "-o", "out.h5"]) == 0
    part = failure("predict", str(model), "em.h5:raw[2:]", "--resume", "-o", "out.h5")
    assert "another prediction, of the shape" in part
    Path("here").symlink_to(em.parent)
    same = ["here/em.h5:raw", "--resume", "-o", "out.h5"]
    assert main(["predict", "here/model.safetensors", *same]) == 0
    shutil.copy(em, "em2.h5")
    image = failure("predict", str(model), "em2.h5:raw", "--resume", "-o", "out.h5")
    assert f"another prediction, of {em}:raw" in image
    shutil.copy(model, "better.safetensors")
    other = failure("predict", "better.safetensors", *ask[2:], "out.h5")
    assert f"another prediction, with the model {model}" in other

    Path("thesis.h5").write_text("all of it")
    write_hdf5("raw.h5", {"raw": np.zeros((2, 4, 4), np.uint8)}, (1, 1, 1))
    for name in ("thesis.h5", "raw.h5"):
        before = Path(name).read_bytes()
        assert "is no whole prediction" in failure(*ask, name)
        assert Path(name).read_bytes() == before
