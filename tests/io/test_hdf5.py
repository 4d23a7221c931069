import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from napari_volseg.errors import DataError
from napari_volseg.io import (
    hdf5,
    list_datasets,
    open_volume,
    read_labels,
    read_mask,
    write_hdf5,
)

VOXEL_SIZE = (40.0, 8.0, 4.5)
DTYPES = ["bool", "uint8", "int16", ">u2", ">i8", "float16", ">f4", "float64"]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "ein Würfel 🧊.h5"


def volume(rng, shape=(40, 30, 20), dtype="uint8"):
    return rng.integers(0, 2 if dtype == "bool" else 100, shape).astype(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(40, 30, 20), (2, 5, 300, 3), (1, 1, 1)])
def test_round_trip(path, rng, dtype, shape):
    array = volume(rng, shape, dtype)
    array.flags.writeable = False
    write_hdf5(path, {"raw": array}, VOXEL_SIZE, {"note": "µm", "n": 3})

    opened = open_volume(str(path))

    assert opened.voxel_size == VOXEL_SIZE
    assert opened.data.dtype == np.dtype(dtype).newbyteorder("=")
    assert opened.data.dtype.isnative
    np.testing.assert_array_equal(opened.data[...], array)
    with h5py.File(path) as h5:
        assert dict(h5.attrs) == {"note": "µm", "n": 3}


def test_lazy_arrays_are_copied_block_by_block(path, rng, monkeypatch):
    array = volume(rng, (2, 70, 300, 20), "uint16")
    write_hdf5(path, {"raw": array}, VOXEL_SIZE)
    monkeypatch.setattr("napari_volseg.io.hdf5_writing._WRITE_BLOCK", 1)

    write_hdf5(path, {"a/copy": open_volume(str(path)).data}, VOXEL_SIZE)

    np.testing.assert_array_equal(open_volume(f"{path}:a/copy").data[...], array)


def test_opening_reads_no_values(path, rng, monkeypatch):
    write_hdf5(path, {"raw": volume(rng)}, VOXEL_SIZE)
    monkeypatch.setattr(hdf5._StoredDataset, "read", None)

    assert open_volume(f"{path}[3:5]").shape_ZYX == (2, 30, 20)


def test_ten_terabytes_open_lazily_and_are_not_read_whole(path):
    with h5py.File(path, "w") as h5:
        h5.create_dataset("raw", (20000, 20000, 25000), "u1", chunks=(32, 64, 64))

    opened = open_volume(str(path))

    assert not opened.data[10:12, 5:8, 19_000].any()
    with pytest.raises(DataError, match="of memory are free"):
        opened.read()
    with pytest.raises(DataError, match="of memory are free"):
        read_labels(str(path))


def test_the_file_is_free_for_writers_between_reads(path, rng):
    array = volume(rng)
    write_hdf5(path, {"raw": array}, VOXEL_SIZE)
    data = open_volume(str(path)).data
    first = data[0:3].copy()
    with h5py.File(path, "r+") as h5:
        h5["raw"][0:3] = first + 1
    os.utime(path, (1, 1))

    np.testing.assert_array_equal(data[0:3], first + 1)


def test_a_file_replaced_by_another_shape_is_noticed(path, rng):
    write_hdf5(path, {"raw": volume(rng)}, VOXEL_SIZE)
    data = open_volume(str(path)).data
    write_hdf5(path, {"raw": volume(rng, (3, 3, 3))}, VOXEL_SIZE)

    with pytest.raises(DataError, match="has changed"):
        data[0]


def test_changing_a_result_changes_nothing_kept(path, rng):
    array = volume(rng)
    write_hdf5(path, {"raw": array}, VOXEL_SIZE)
    data = open_volume(str(path)).data
    data[0:5][:] = 0

    np.testing.assert_array_equal(data[0:5], array[0:5])


@pytest.mark.parametrize(
    ("names", "image", "labels"),
    [
        (["labels", "raw"], "raw", "labels"),
        (["anything"], "anything", "anything"),
        (["instances", "maps"], "maps", "instances"),
        (["volumes/labels/neuron_ids", "volumes/raw"], "volumes/raw", None),
        (["a", "b"], None, None),
    ],
)
def test_the_usual_names_are_preferred(path, names, image, labels):
    arrays = {n: np.full((3, 4, 5), i, np.uint8) for i, n in enumerate(names)}
    write_hdf5(path, arrays, VOXEL_SIZE)
    if image:
        assert open_volume(str(path)).data[0, 0, 0] == names.index(image)
    else:
        with pytest.raises(DataError, match=r"a, b.*:a"):
            open_volume(str(path))
    if labels:
        assert read_labels(str(path))[0, 0, 0] == names.index(labels)


def test_axes_and_voxel_sizes_of_other_programs(path):
    tags = '{"axes": [{"key": "z"}, {"key": "y"}, {"key": "x"}, {"key": "c"}]}'
    with h5py.File(path, "w") as h5:
        h5["ilastik"] = np.zeros((3, 4, 5, 2), "u1")
        h5["ilastik"].attrs["axistags"] = tags
        h5["plantseg"] = np.zeros((3, 4, 5), "u1")
        h5["plantseg"].attrs["element_size_um"] = (0.235, 0.15, 0.15)
        h5["cremi"] = np.zeros((3, 4, 5), "u1")
        h5["cremi"].attrs["resolution"] = (40, 4, 4)
        h5["odd"] = np.zeros((3, 4, 5), "u1")
        h5["odd"].attrs["resolution"] = "unknown"

    assert open_volume(f"{path}:ilastik").data.shape == (2, 3, 4, 5)
    np.testing.assert_allclose(
        open_volume(f"{path}:plantseg").voxel_size, (235, 150, 150)
    )
    assert open_volume(f"{path}:cremi").voxel_size == (40, 4, 4)
    assert open_volume(f"{path}:odd").voxel_size == (1, 1, 1)


def test_masks_are_what_is_not_zero(path, rng):
    array = volume(rng, dtype="int16") - 50
    write_hdf5(path, {"mask": array, "raw": array}, VOXEL_SIZE)

    mask = read_mask(str(path))

    assert mask.dtype == bool
    np.testing.assert_array_equal(mask, array != 0)


def test_labels_drop_one_channel_and_refuse_two(path, rng):
    array = volume(rng, (2, 3, 4, 5))
    write_hdf5(path, {"labels": array, "one": array[:1]}, VOXEL_SIZE)

    np.testing.assert_array_equal(read_labels(f"{path}:one"), array[0])
    np.testing.assert_array_equal(read_labels(f"{path}:labels[1]"), array[1])
    with pytest.raises(DataError, match="2 channels"):
        read_labels(f"{path}:labels")


# Hostile files


@pytest.fixture
def secret(tmp_path):
    """Another HDF5 file and a text file, which nothing may read."""
    with h5py.File(tmp_path / "secret.h5", "w") as h5:
        h5["group/raw"] = np.ones((3, 4, 5), "u1")
    (tmp_path / "secret.txt").write_bytes(b"s" * 60)
    return tmp_path


def test_links_to_other_places_are_not_followed(path, secret):
    with h5py.File(path, "w") as h5:
        h5["real/raw"] = np.zeros((3, 4, 5), "u1")
        h5["ext"] = h5py.ExternalLink("secret.h5", "/group/raw")
        h5["middle"] = h5py.ExternalLink("secret.h5", "/group")
        h5["soft"] = h5py.SoftLink("/real/raw")
        h5["loop"] = h5py.SoftLink("/loop")

    assert list_datasets(str(path)) == ["real/raw"]
    for dataset in ("ext", "middle/raw", "soft", "loop"):
        with pytest.raises(DataError, match="link to elsewhere"):
            open_volume(f"{path}:{dataset}")


def test_values_in_other_files_are_not_read(path, secret):
    layout = h5py.VirtualLayout((3, 4, 5), "u1")
    layout[:] = h5py.VirtualSource(secret / "secret.h5", "group/raw", (3, 4, 5))
    with h5py.File(path, "w") as h5:
        h5.create_virtual_dataset("virtual", layout)
        h5.create_dataset(
            "external", (3, 4, 5), "u1", external=[(str(secret / "secret.txt"), 0, 60)]
        )
    for dataset in ("virtual", "external"):
        with pytest.raises(DataError, match="other files"):
            open_volume(f"{path}:{dataset}")


def test_unsuitable_datasets_say_why(path):
    with h5py.File(path, "w") as h5:
        h5["text"] = np.full((2, 2, 2), b"x")
        h5.create_dataset("objects", (2, 2, 2), h5py.string_dtype())
        h5["compound"] = np.zeros((2, 2, 2), [("a", "u1"), ("b", "f4")])
        h5["complex"] = np.zeros((2, 2, 2), complex)
        h5["references"] = np.full((2, 2, 2), h5.ref, h5py.ref_dtype)
        h5["null"] = h5py.Empty("u1")
        h5["scalar"] = 3
        h5["plane"] = np.zeros((4, 5))
        h5["time"] = np.zeros((2, 2, 2, 2, 2))
        h5["nothing"] = np.zeros((0, 4, 5))
        h5["last"] = np.zeros((20, 30, 30, 3))
        h5.create_group("group")
    for dataset, message in {
        "text": "values of type",
        "objects": "values of type",
        "compound": "values of type compound",
        "complex": "values of type complex",
        "references": "values of type",
        "null": "is empty",
        "scalar": "0 axes",
        "plane": "2 axes",
        "time": r"5 axes.*\[0\]",
        "nothing": "is empty",
        "last": "channels last",
        "group": "is a group",
        "group/none": "no dataset",
        "scalar/below": "no dataset",
    }.items():
        with pytest.raises(DataError, match=message):
            open_volume(f"{path}:{dataset}")


def test_a_wrong_name_names_the_nearest(path):
    write_hdf5(path, {"volumes/raw": np.zeros((2, 2, 2), "u1")}, VOXEL_SIZE)

    with pytest.raises(DataError, match=r"did you mean volumes/raw\?"):
        open_volume(f"{path}:volume/raw")


def test_a_file_without_volumes_says_so(path):
    with h5py.File(path, "w") as h5:
        h5["x"] = 1

    with pytest.raises(DataError, match="no array"):
        open_volume(str(path))


def test_an_unknown_filter_is_named(path):
    with h5py.File(path, "w") as h5:
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_chunk((2, 2, 2))
        plist.set_filter(32123, h5py.h5z.FLAG_OPTIONAL, ())
        space = h5py.h5s.create_simple((2, 2, 2))
        h5py.h5d.create(h5.id, b"raw", h5py.h5t.NATIVE_UINT8, space, plist)

    with pytest.raises(DataError, match="filter 32123"):
        open_volume(str(path))


@pytest.mark.parametrize("share", [0, 0.01, 0.1, 0.5, 0.99])
def test_truncated_files(path, rng, share):
    write_hdf5(path, {"raw": volume(rng)}, VOXEL_SIZE)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])

    with pytest.raises(DataError, match=r"ein Würfel 🧊\.h5"):
        open_volume(str(path)).read()


def test_a_damaged_chunk_is_an_error_of_its_read(path, rng):
    array = volume(rng, (64, 20, 20))
    write_hdf5(path, {"raw": array}, VOXEL_SIZE)
    with h5py.File(path) as h5:
        place = h5["raw"].id.get_chunk_info(1).byte_offset
    with path.open("r+b") as stream:
        stream.seek(place)
        stream.write(b"\xff" * 64)
    opened = open_volume(str(path))

    np.testing.assert_array_equal(opened.data[:32], array[:32])
    with pytest.raises(DataError, match="raw cannot be read"):
        opened.data[40]


def test_a_cycle_of_hard_links_is_listed_once(path):
    with h5py.File(path, "w") as h5:
        h5["a/raw"] = np.zeros((2, 2, 2), "u1")
        h5["a/again"] = h5["a"]

    assert list_datasets(str(path)) == ["a/raw"]


def test_axes_that_may_grow_are_read_and_those_without_length_are_not(path, rng):
    array = volume(rng)
    with h5py.File(path, "w") as h5:
        h5.create_dataset("raw", data=array, maxshape=(None,) * 3)
        h5.create_dataset("empty", (0, 30, 20), "u1", maxshape=(None, 30, 20))

    np.testing.assert_array_equal(open_volume(f"{path}:raw").data[...], array)
    with pytest.raises(DataError, match="is empty"):
        open_volume(f"{path}:empty")


def test_what_lies_deep_is_listed_in_order(path):
    with h5py.File(path, "w") as h5:
        for name in ("b/x/raw", "a/raw", "b/a", "z"):
            h5[name] = np.zeros((2, 2, 2), "u1")
        h5["b/again"] = h5["a"]

    assert sorted(list_datasets(str(path))) == ["a/raw", "b/a", "b/x/raw", "z"]


def test_a_file_is_waited_for_while_it_is_written(path, writer, monkeypatch):
    monkeypatch.setattr(hdf5, "LOCKED_SECONDS", 60)
    monkeypatch.setattr(hdf5.time, "sleep", lambda seconds: _end(writer))

    assert open_volume(str(path)).data.shape == (40, 30, 20)


def _end(process):
    process.stdin.close()
    process.wait()  # with a time limit it would sleep


def test_listing_is_capped(path, monkeypatch):
    monkeypatch.setattr(hdf5, "_MAX_VISITED", 10)
    with h5py.File(path, "w") as h5:
        for i in range(30):
            h5.create_dataset(f"d{i:02}", (2, 2, 2), "u1")

    assert len(list_datasets(str(path))) == 10


@pytest.fixture
def writer(path, rng):
    """Another program that holds the file open for writing."""
    write_hdf5(path, {"raw": volume(rng)}, VOXEL_SIZE)
    program = (
        "import h5py, sys\n"
        "h5 = h5py.File(sys.argv[1], 'r+')\n"
        "print('open', flush=True)\n"
        "sys.stdin.read()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout.readline() == b"open\n"
    yield process
    process.stdin.close()
    process.wait(20)
    process.stdout.close()


def test_a_file_that_is_being_written_is_left_alone(path, writer, monkeypatch):
    monkeypatch.setattr(hdf5, "LOCKED_SECONDS", 0)
    before = path.read_bytes()
    with pytest.raises(DataError, match="in use"):
        open_volume(str(path))
    with pytest.raises(DataError, match="in use"):
        write_hdf5(path, {"raw": np.zeros((2, 2, 2))}, VOXEL_SIZE)

    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((2, 2, 2), object), "values of type"),
        (np.zeros((2, 2)), "not \\(C\\)ZYX"),
        (np.zeros((0, 2, 2)), "empty"),
    ],
)
def test_what_cannot_be_written_leaves_the_old_file(path, array, message):
    path.write_text("old")
    with pytest.raises(DataError, match=message):
        write_hdf5(path, {"raw": np.zeros((2, 2, 2)), "x": array}, VOXEL_SIZE)

    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


DATA = Path(__file__).parents[3] / "shared" / "data"


@pytest.mark.skipif(not DATA.is_dir(), reason="real volumes are not at hand")
def test_real_volumes():
    two_channels = DATA / "organoid_2ch_obj38.h5"

    opened = open_volume(f"{two_channels}[:,10:20,::2]")

    assert opened.data.shape == (2, 10, 71, 140)
    assert opened.voxel_size == (600, 432, 216)
    assert read_labels(str(two_channels)).max() == 8


def test_a_compressed_plane_is_a_volume_of_one_slice(path, rng):
    array_YX = volume(rng, (30, 20))
    with h5py.File(path, "w") as h5:
        raw = h5.create_dataset("raw", data=array_YX, chunks=(8, 8), compression="gzip")
        raw.attrs["axistags"] = '{"axes": [{"key": "y"}, {"key": "x"}]}'

    opened = open_volume(f"{path}:raw")

    np.testing.assert_array_equal(opened.data[...], array_YX[None])
    np.testing.assert_array_equal(opened.data[0, 3:20:2, 5], array_YX[3:20:2, 5])
