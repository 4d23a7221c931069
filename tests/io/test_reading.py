import os
import subprocess
import sys

import h5py
import numpy as np
import pytest
import tifffile
import zarr

from napari_volseg.errors import DataError
from napari_volseg.io import (
    failures,
    list_datasets,
    open_volume,
    read_labels,
    read_mask,
    write_hdf5,
)


@pytest.fixture
def path(tmp_path, rng):
    file = tmp_path / "ein Würfel 🧊.npy"
    np.save(file, rng.integers(0, 99, (6, 7, 8), np.uint8))
    return file


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["bool", "uint8", ">u2", "float16", ">f8"])
def test_npy(path, rng, dtype, order):
    array = np.asarray(rng.integers(0, 2, (2, 6, 7, 8)).astype(dtype), order=order)
    np.save(path, array)

    opened = open_volume(str(path))

    assert opened.data.dtype.isnative
    assert opened.voxel_size == (1, 1, 1)
    assert opened.n_channels == 2
    np.testing.assert_array_equal(opened.data[...], array)
    assert list_datasets(str(path)) == []


KEYS = [
    0,
    -1,
    ...,
    slice(None),
    slice(4, 1, -1),
    slice(-3, None, 2),
    slice(3, 3),
    (1, 2, 3),
    (slice(None), np.int64(2)),
    (..., 0),
    (1, ...),
    (slice(None, None, -2), -1, slice(0, 100, 3)),
]


@pytest.mark.parametrize("index", ["", "[1:5]", "[::-1,2:,::2]", "[-1:0:-2]"])
@pytest.mark.parametrize("key", KEYS, ids=str)
def test_indexing_is_numpy_s(path, index, key):
    expected = eval(f"np.load(path){index}")[key] if index else np.load(path)[key]

    result = open_volume(f"{path}{index}").data[key]

    assert result.shape == expected.shape
    np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("key", [6, -7, (0, 0, 0, 0), (..., ...)])
def test_indices_outside_are_index_errors(path, key):
    with pytest.raises(IndexError):
        open_volume(str(path)).data[key]


def test_other_kinds_of_index_are_type_errors(path):
    with pytest.raises(TypeError):
        open_volume(str(path)).data[[0, 1]]


def test_arrays_behave_like_arrays(path):
    data = open_volume(str(path)).data
    values = np.asarray(data, dtype=np.float32)

    assert (len(data), data.ndim, data.size, data.nbytes) == (6, 3, 336, 336)
    assert values.dtype == np.float32
    np.testing.assert_array_equal(values, np.load(path))
    assert "(6, 7, 8)" in repr(data)


def test_arrays_know_what_is_decoded_together(tmp_path, path):
    assert open_volume(str(path)).data.chunks is None
    values = np.zeros((6, 20, 30), np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", values, compression="zlib")
    zarr.create_array(tmp_path / "a.zarr", data=values, chunks=(4, 5, 6))
    with h5py.File(tmp_path / "a.h5", "w") as h5:
        h5.create_dataset("raw", data=values, chunks=(3, 8, 30))

    assert open_volume(str(tmp_path / "a.tif")).data.chunks == (1, 20, 30)
    assert open_volume(str(tmp_path / "a.zarr")).data.chunks == (4, 5, 6)
    part = open_volume(f"{tmp_path / 'a.h5'}[2:4,::-3]").data
    assert (part.shape, part.chunks) == ((2, 7, 30), (2, 2, 30))


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ("[0,0]", "1 axes"),
        ("[6]", "outside axis 0"),
        ("[0:1,0,0,0]", "4 parts"),
        ("[5:5]", "empty"),
        ("[100:]", "empty"),
    ],
)
def test_an_index_that_leaves_no_volume(path, index, message):
    with pytest.raises(DataError, match=message):
        open_volume(f"{path}{index}")


def test_a_channel_is_picked_by_an_integer(path, rng):
    array = rng.integers(0, 99, (3, 6, 7, 8), np.uint8)
    np.save(path, array)

    np.testing.assert_array_equal(open_volume(f"{path}[-1]").data[...], array[-1])
    np.testing.assert_array_equal(read_labels(f"{path}[1]"), array[1])


def test_a_given_voxel_size_wins_and_follows_steps(tmp_path):
    path = tmp_path / "a.h5"
    write_hdf5(path, {"raw": np.zeros((4, 4, 4), "u1")}, (40, 8, 8))

    assert open_volume(str(path), (3, 2, 1)).voxel_size == (3, 2, 1)
    assert open_volume(f"{path}[::2,:,::-3]", (3, 2, 1)).voxel_size == (6, 2, 3)


def test_reading_more_than_memory_is_refused(path, monkeypatch):
    class Memory:
        available = 300

    monkeypatch.setattr(failures, "_ALWAYS_FITS", 10)
    monkeypatch.setattr(failures.psutil, "virtual_memory", Memory)
    data = open_volume(str(path)).data

    assert data[:4].shape == (4, 7, 8)
    for read in (lambda: data[...], lambda: read_mask(str(path))):
        with pytest.raises(DataError, match="memory are free"):
            read()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"hello" * 100, "neither"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
        (b"<!DOCTYPE html><html></html>", "web page"),
        (b"PK\x03\x04" + b"\0" * 100, "zip"),
        (b"\x93NUMPY", "cannot be read"),
        (b"\x93NUMPY\x01\x00\xff\xff{", "cannot be read"),
        (b"II*\0", "cannot be read|no image"),
        (b"MM\0+" + b"\0" * 40, "cannot be read|no image"),
        (b"\x89HDF\r\n\x1a\n", "cannot be read"),
        (b"\0" * 512 + b"\x89HDF\r\n\x1a\n" + b"\0" * 90, "cannot be read"),
    ],
)
@pytest.mark.parametrize("suffix", [".h5", ".tif", ".npy"])
def test_the_content_decides_not_the_suffix(tmp_path, content, message, suffix):
    path = tmp_path / f"file{suffix}"
    path.write_bytes(content)
    for read in (open_volume, read_labels, read_mask):
        with pytest.raises(DataError, match=message) as caught:
            read(str(path))
        assert path.name in str(caught.value)
        assert "\n" not in str(caught.value)


def test_random_bytes_behind_a_signature_are_data_errors(tmp_path, rng):
    for start in (b"\x89HDF\r\n\x1a\n", b"II*\0", b"II+\0", b"\x93NUMPY\x01\0"):
        for length in (1, 30, 3000):
            path = tmp_path / "file"
            path.write_bytes(start + rng.bytes(length))
            with pytest.raises(DataError):
                open_volume(str(path)).read()


def test_npy_files_are_never_unpickled(path):
    np.save(path, np.array([{1: 2}, None]), allow_pickle=True)
    with pytest.raises(DataError, match=r"numpy\.save"):
        open_volume(str(path))


@pytest.mark.parametrize("shape", ["(9999999999, 9999999999, 9)", "(-1, 2, 2)", "(3,"])
def test_npy_headers_that_lie(path, shape):
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}"
    head = header.ljust(117) + "\n"
    path.write_bytes(b"\x93NUMPY\x01\0" + (118).to_bytes(2, "little") + head.encode())
    with pytest.raises(DataError):
        open_volume(str(path))


def test_truncated_npy(path):
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(DataError, match="Würfel"):
        open_volume(str(path))


def test_missing_files_name_the_nearest(path):
    with pytest.raises(DataError, match=rf"did you mean {path.name}\?"):
        open_volume(str(path.with_name("ein Würfel.npy")))
    with pytest.raises(DataError, match="no folder"):
        read_labels(str(path.parent / "missing" / "a.h5"))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no pipes")
def test_pipes_and_devices_do_not_hang(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/zero"):
        with pytest.raises(DataError, match="not a regular file"):
            open_volume(str(path))


@pytest.mark.parametrize("name", ["a\0b", "x" * 5000, "a\nb"])
def test_impossible_names(name):
    with pytest.raises(DataError):
        open_volume(name)


def test_a_dangling_link_and_a_loop_are_data_errors(tmp_path):
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for name in ("dangling", "loop"):
        with pytest.raises(DataError):
            open_volume(str(tmp_path / name))


@pytest.mark.parametrize("name", ["a%20b", "'quoted\"", "[0]", "a:b", " lead", "CON"])
def test_odd_names_open(tmp_path, path, name):
    odd = tmp_path / f"{name}.npy"
    path.rename(odd)

    assert open_volume(str(odd)).shape_ZYX == (6, 7, 8)
    assert open_volume(f"{odd}[0:2]").shape_ZYX == (2, 7, 8)


def test_importing_io_imports_no_format_library():
    program = (
        "import sys, napari_volseg.io as io\n"
        "print({'h5py', 'zarr', 'tifffile', 'torch'} & set(sys.modules))\n"
        "print(all(callable(getattr(io, name)) for name in io.__all__))\n"
    )
    output = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout

    assert output.splitlines() == ["set()", "True"]
