"""New labels beside the snapshot that a run began with."""

import numpy as np
import pytest

from napari_volseg.errors import DataError
from napari_volseg.runs import (
    ControlReader,
    NewLabels,
    TrainingPair,
    add_revision,
    create_run,
    newest_annotated,
    newest_pairs,
    newest_revision,
    read_revision,
    read_run,
    remove_revisions,
)


@pytest.fixture
def folder(tmp_path, tiny_config, make_cells):
    pairs = [TrainingPair(make_cells(name=name), None) for name in ("one", "two")]
    return create_run(tiny_config, pairs, tmp_path / "runs", "run")


@pytest.fixture
def labels(make_cells):
    return make_cells().labels_ZYX


def _add(folder, labels, annotated=None):
    return add_revision(folder, [NewLabels(labels, annotated), NewLabels(labels)])


def test_a_revision_is_read_back_with_the_images_of_the_run(folder, labels):
    first = read_run(folder)[1]
    new = labels.copy()
    new[:6] = 0
    known = np.zeros(labels.shape, bool)
    known[4:] = True
    assert newest_revision(folder) == 1
    assert _add(folder, new, known) == 2
    assert ControlReader(folder)().revision == newest_revision(folder) == 2
    one, two = newest_pairs(folder, first)
    np.testing.assert_array_equal(one.volume.labels_ZYX, new)
    np.testing.assert_array_equal(one.volume.annotated_ZYX, known)
    assert two.volume.annotated_ZYX is None
    assert one.volume.image is first[0].volume.image
    np.testing.assert_array_equal(first[0].volume.labels_ZYX, labels)


def test_what_the_run_began_with_is_revision_1_and_stays(folder, labels):
    first = read_run(folder)[1]
    for gone in (1, 2, 3):
        _add(folder, np.where(labels == gone, 0, labels))
    remove_revisions(folder, below=4)
    assert sorted(p.name for p in (folder / "data").glob("r*")) == ["r004"]
    np.testing.assert_array_equal(read_run(folder)[1][0].volume.labels_ZYX, labels)
    assert read_revision(folder, 1, first) == first


def test_numbers_are_never_used_twice(folder, labels):
    assert _add(folder, labels * 2) == 2
    (folder / "data" / "r007").mkdir()  # somebody is writing just now
    assert _add(folder, labels * 3) == 8
    remove_revisions(folder, below=8)
    assert _add(folder, labels * 4) == 9


def test_labels_that_are_as_they_were_make_no_revision(folder, labels):
    known = labels > 0
    assert _add(folder, labels) == 1
    assert _add(folder, labels, known) == 2
    assert _add(folder, labels, known) == 2
    one, other = newest_annotated(folder)
    np.testing.assert_array_equal(one, known)
    assert other is None
    assert _add(folder, labels) == 3


def test_half_a_revision_is_none(folder, labels, monkeypatch):
    first = read_run(folder)[1]

    def fail(*args, **kwargs):
        raise DataError("the disk is full")

    monkeypatch.setattr("napari_volseg.runs.revisions.write_json", fail)
    with pytest.raises(DataError, match="disk is full"):
        _add(folder, labels * 2)
    assert newest_revision(folder) == 1
    assert not list((folder / "data").glob("r*"))
    place = folder / "data" / "r002"
    place.mkdir()
    (place / "000.h5").write_bytes(b"cut off")
    assert newest_pairs(folder, first) == first
    (place / "revision.json").write_text("{")
    with pytest.raises(DataError, match="revision 2"):
        read_revision(folder, 2, first)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda labels: labels[:-1], "images cannot change while a run goes on"),
        (lambda labels: labels * 0, "are empty"),
    ],
)
def test_labels_that_do_not_fit_write_nothing(folder, labels, change, words):
    with pytest.raises(DataError, match=words):
        _add(folder, change(labels))
    assert newest_revision(folder) == 1
    assert not (folder / "control.json").exists()


def test_nothing_annotated_is_refused(folder, labels):
    with pytest.raises(DataError, match="nothing of one is annotated"):
        _add(folder, labels, np.zeros(labels.shape, bool))


def test_every_image_needs_its_labels(folder, labels):
    with pytest.raises(DataError, match="2 images and labels for 1"):
        add_revision(folder, [NewLabels(labels)])


def test_only_a_run_has_labels(tmp_path, labels):
    with pytest.raises(DataError, match="not a run folder"):
        add_revision(tmp_path, [NewLabels(labels)])


def test_a_run_folder_that_is_gone_is_told(folder, labels):
    (folder / "data" / "pairs.json").unlink()
    with pytest.raises(DataError, match="start anew"):
        _add(folder, labels)
