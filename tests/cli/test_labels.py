"""New labels for a run, from the command line."""

import json

import numpy as np
import pytest

from napari_volseg.cli import main
from napari_volseg.io import write_hdf5
from napari_volseg.runs import lock, newest_pairs, newest_revision, read_run


@pytest.fixture
def folder(train_em, tmp_path, cells, capsys):
    assert train_em("--name", "first") == 0
    new = np.where(cells.labels_ZYX == 1, 0, cells.labels_ZYX)
    arrays = {"labels": new, "small": new[:-1], "mask": (new > 0).view(np.uint8)}
    write_hdf5("new.h5", arrays, cells.image.voxel_size)
    capsys.readouterr()
    return tmp_path / "runs" / "first"


def test_new_labels_go_into_the_run(folder, cells, capsys):
    assert main(["labels", "first", "--label", "new.h5:labels"]) == 0
    out = capsys.readouterr().out
    assert f"revision 2 of {folder}" in out
    assert "--resume" in out
    (pair,) = newest_pairs(folder, read_run(folder)[1])
    assert not (pair.volume.labels_ZYX == 1).any()
    assert pair.volume.annotated_ZYX is None


def test_what_was_not_annotated_is_not_background_with_new_labels(folder, capsys):
    masked = ["labels", "first", "--label", "new.h5:labels", "--mask", "new.h5:mask"]
    assert main(masked) == 0
    before = newest_pairs(folder, read_run(folder)[1])[0].volume.annotated_ZYX
    assert main(["labels", "first", "--label", "em.h5:labels"]) == 0
    (pair,) = newest_pairs(folder, read_run(folder)[1])
    assert (pair.volume.labels_ZYX == 1).any()
    np.testing.assert_array_equal(pair.volume.annotated_ZYX, before)


def test_a_running_training_is_told(folder, capsys):
    with lock(folder):
        arguments = ["labels", "first", "--label", "new.h5:labels", "--json"]
        assert main([*arguments, "--mask", "new.h5:mask"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer == {"folder": str(folder), "revision": 2, "training": True}
    (pair,) = newest_pairs(folder, read_run(folder)[1])
    assert pair.volume.annotated_ZYX.any()


def test_a_run_that_is_trained_anew_learns_from_its_newest_labels(folder, capsys):
    assert main(["labels", "first", "--label", "new.h5:labels"]) == 0
    assert main(["train", str(folder), "--name", "again"]) == 0
    (pair,) = read_run(folder.parent / "again")[1]
    assert not (pair.volume.labels_ZYX == 1).any()


def test_the_same_labels_are_nothing_new(folder, capsys):
    assert main(["labels", "first", "--label", "em.h5:labels"]) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert newest_revision(folder) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["first", "--label", "new.h5:small"], "images cannot change"),
        (["first", "--label", "a", "--label", "b", "--mask", "c"], "2 --label and 1"),
        (["frist", "--label", "new.h5:labels"], "did you mean 'first'?"),
    ],
)
def test_what_does_not_fit_is_refused(folder, failure, arguments, words):
    assert words in failure("labels", *arguments)
    assert newest_revision(folder) == 1
