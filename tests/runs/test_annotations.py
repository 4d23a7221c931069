import numpy as np
import pytest

from napari_volseg.errors import DataError
from napari_volseg.io import write_hdf5
from napari_volseg.runs import annotations
from napari_volseg.runs.annotations import read_annotated


@pytest.fixture
def source(tmp_path, cells):
    """Labels with one empty slice, and a mask of most of them."""
    labels = cells.labels_ZYX.copy()
    labels[3] = 0
    mask = np.zeros(labels.shape, np.uint8)
    mask[:, 2:, :-3] = 7
    path = tmp_path / "em.h5"
    write_hdf5(path, {"labels": labels, "mask": mask}, (1.0, 1.0, 1.0))
    return f"{path}:labels", f"{path}:mask"


@pytest.mark.parametrize("rule", ["everywhere", "painted_slices", "painted_voxels"])
@pytest.mark.parametrize("masked", [False, True])
def test_labels_mapped_from_a_file_are_those_in_memory(
    source, rule, masked, tmp_path, monkeypatch
):
    monkeypatch.setattr(annotations, "_SLAB", 40_000)
    mask = source[1] if masked else None
    before = sorted(tmp_path.iterdir())
    wanted = read_annotated(source[0], mask, rule, 2)
    found = read_annotated(source[0], mask, rule, 2, folder=tmp_path, max_bytes=0)
    assert isinstance(found[0], np.memmap)
    assert not isinstance(wanted[0], np.memmap)
    np.testing.assert_array_equal(found[0], wanted[0])
    if wanted[1] is None:
        assert found[1] is None
    else:
        assert isinstance(found[1], np.memmap)
        np.testing.assert_array_equal(found[1], wanted[1])
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("dtype", "kept"),
    [("u1", "i4"), ("u2", "i4"), ("i4", "i4"), ("u4", "i8"), ("i8", "i8")],
)
def test_every_id_of_the_stored_type_fits(tmp_path, dtype, kept):
    labels = np.zeros((4, 6, 6), dtype)
    labels[1, 2, 3] = np.iinfo(dtype).max
    path = tmp_path / "em.h5"
    write_hdf5(path, {"labels": labels}, (1.0, 1.0, 1.0))
    found, _ = read_annotated(str(path), folder=tmp_path, max_bytes=0)
    assert found.dtype == kept
    assert found.max() == np.iinfo(dtype).max


def test_shapes_that_differ_are_refused_before_anything_is_copied(source, tmp_path):
    with pytest.raises(DataError, match="has the shape"):
        read_annotated(source[0], f"{source[1]}[0:3]", folder=tmp_path, max_bytes=0)


def test_a_negative_id_is_refused(tmp_path):
    labels = np.zeros((4, 6, 6), np.int32)
    labels[3, 2, 2] = -4
    write_hdf5(tmp_path / "em.h5", {"labels": labels}, (1.0, 1.0, 1.0))
    with pytest.raises(DataError, match="negative id -4"):
        read_annotated(str(tmp_path / "em.h5"), folder=tmp_path, max_bytes=0)
