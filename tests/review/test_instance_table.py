import csv

import numpy as np
import pytest

from napari_volseg.errors import DataError
from napari_volseg.geometry import Box
from napari_volseg.review import instance_table, measure_instances, write_table
from napari_volseg.sample_data import make_sample


@pytest.fixture
def labels() -> np.ndarray:
    labels = np.zeros((4, 6, 8), np.int32)
    labels[1:3, 2:4, 3:7] = 5
    labels[0, 0, 0:2] = 2
    return labels


def test_rows_of_known_blocks(labels):
    maps = np.zeros((3, *labels.shape), np.uint8)
    maps[0][labels == 5] = 255
    maps[0][0, 0, 0] = 51
    maps[1][1, 2:4, 3:7] = 255

    table = instance_table(labels, maps, (30.0, 10.0, 8.0))

    assert {key: column.tolist() for key, column in table.items()} == {
        "index": [2, 5],
        "voxels": [2, 16],
        "volume_um3": pytest.approx([2 * 2400e-9, 16 * 2400e-9]),
        "z": [0, 1.5],
        "y": [0, 2.5],
        "x": [0.5, 4.5],
        "z_start": [0, 1],
        "y_start": [0, 2],
        "x_start": [0, 3],
        "z_stop": [1, 3],
        "y_stop": [1, 4],
        "x_stop": [2, 7],
        "mask_mean": pytest.approx([0.1, 1]),
        "boundary_mean": pytest.approx([0, 0.5]),
        "touches_border": [True, False],
        # 2 x 2 x 4 voxels have no voxel inside, and 8, 16 and 16 outer faces.
        "boundary_inside": [0, 0],
        "surface_um2": pytest.approx(
            [(2 * 80 + 2 * 240 + 1 * 300) / 1e6, (16 * 80 + 16 * 240 + 8 * 300) / 1e6]
        ),
        "shape_outlier": [0, 0],
        "doubt": pytest.approx([4.5**2 / (4.5**2 + 6.25), 0]),
    }


@pytest.mark.parametrize("face", [(0, 0), (0, -1), (1, 0), (1, -1), (2, 0), (2, -1)])
def test_every_face_is_a_border(face):
    axis, side = face
    labels = np.zeros((4, 5, 6), np.int32)
    centre = [2, 2, 2]
    centre[axis] = side
    labels[tuple(centre)] = 1

    table = instance_table(labels, np.zeros((3, 4, 5, 6), np.uint8), (1, 1, 1))

    assert table["touches_border"].tolist() == [True]


def test_columns_agree_with_the_labels_themselves():
    sample = make_sample("cells", (10, 40, 40))
    labels, rng = sample.labels_ZYX, np.random.default_rng(0)
    maps = rng.integers(0, 256, (3, *labels.shape)).astype(np.uint8)

    table = instance_table(labels, maps, (1, 1, 1))

    assert table["index"].tolist() == list(range(1, labels.max() + 1))
    for row, index in enumerate(table["index"]):
        where = np.argwhere(labels == index)
        assert table["voxels"][row] == len(where)
        for axis, name in enumerate("zyx"):
            assert table[name][row] == pytest.approx(where[:, axis].mean())
            assert table[f"{name}_start"][row] == where[:, axis].min()
            assert table[f"{name}_stop"][row] == where[:, axis].max() + 1
        mean = maps[1][labels == index].mean() / 255
        assert table["boundary_mean"][row] == pytest.approx(mean)


def test_single_rows_are_measured_as_all_are():
    sample = make_sample("cells", (12, 40, 40), seed=3)
    labels = sample.labels_ZYX
    maps = np.random.default_rng(0).integers(0, 256, (3, *labels.shape), np.uint8)

    table = instance_table(labels, maps, (30.0, 8.0, 8.0))
    boxes = {int(i): Box.whole(labels.shape) for i in table["index"]}
    rows = measure_instances(labels, list(maps), boxes, (30.0, 8.0, 8.0))

    assert len(table["index"]) > 5
    for name, column in rows.items():
        np.testing.assert_allclose(column, table[name], rtol=1e-12, err_msg=name)


def test_an_id_that_is_gone_has_no_row(labels):
    rows = measure_instances(labels, None, {7: Box.whole(labels.shape)}, (1, 1, 1))

    assert len(rows["index"]) == 0


def test_without_maps_what_they_tell_is_unknown(labels):
    table = instance_table(labels, None, (1, 1, 1))

    assert np.isnan(table["mask_mean"]).all()
    assert np.isnan(table["boundary_inside"]).all()
    assert (table["doubt"] == 0).all()


def balls(n=12, odd=20):
    """Blocks of 3 x 3 x 3 voxels in a row, the last of them long."""
    labels = np.zeros((7, 7, 5 * n + odd + 4), np.int32)
    for i in range(n):
        labels[2:5, 2:5, 2 + 5 * i : 5 + 5 * i] = i + 1
    labels[2:5, 2:5, 2 + 5 * n : 2 + 5 * n + odd] = n + 1
    return labels


def test_a_shape_unlike_the_others_is_doubted():
    labels = balls()
    maps = np.zeros((3, *labels.shape), np.uint8)
    maps[0] = 255

    table = instance_table(labels, maps, (1, 1, 1))

    assert table["shape_outlier"][:-1].max() == 0
    assert table["shape_outlier"][-1] > 3
    assert table["doubt"][:-1].max() == 0
    assert table["doubt"][-1] > 0.5


def test_a_boundary_through_an_object_and_a_weak_mask_are_doubted():
    labels = balls()
    maps = np.zeros((3, *labels.shape), np.uint8)
    maps[0] = 255
    maps[1, 3, 3, 3] = 255  # the middle of object 1
    maps[0][labels == 2] = 179

    table = instance_table(labels, maps, (1, 1, 1))

    assert table["boundary_inside"][0] == 1
    assert table["doubt"][0] > 0.99
    assert table["doubt"][1] > 0.9
    assert (table["doubt"][2:-1] == 0).all()


def test_large_ids_keep_their_names(labels):
    large = np.where(labels == 5, np.int64(2**40 + 1), labels)
    large.setflags(write=False)

    table = instance_table(large, np.zeros((3, *labels.shape), np.uint8), (1, 1, 1))

    assert table["index"].tolist() == [2, 2**40 + 1]
    assert table["voxels"].tolist() == [2, 16]


def test_ids_beyond_63_bits_are_refused(labels):
    large = np.where(labels == 5, np.uint64(2**63 + 1), labels.astype(np.uint64))

    with pytest.raises(DataError, match="beyond 63 bits"):
        instance_table(large, None, (1, 1, 1))


def test_no_instances_make_an_empty_table(tmp_path):
    nothing = np.zeros((2, 3, 4), np.int32)

    table = instance_table(nothing, np.zeros((3, 2, 3, 4), np.uint8), (1, 1, 1))
    write_table(tmp_path / "empty.csv", table)

    assert all(len(column) == 0 for column in table.values())
    lines = (tmp_path / "empty.csv").read_text().splitlines()
    assert lines == [",".join(table)]


def test_maps_must_fit(labels):
    with pytest.raises(ValueError, match="do not fit"):
        instance_table(labels, np.zeros((3, 1, 1, 1), np.uint8), (1, 1, 1))


def test_a_table_is_read_back_from_its_file(labels, tmp_path):
    maps = np.full((3, *labels.shape), 100, np.uint8)
    table = instance_table(labels, maps, (30.0, 10.0, 8.0))

    write_table(tmp_path / "table.csv", table)

    with (tmp_path / "table.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == list(table)
    for row, read in enumerate(rows):
        for key, text in read.items():
            assert float(text) == pytest.approx(float(table[key][row]), rel=1e-5)
